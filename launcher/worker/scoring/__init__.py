"""How a model scores the completions of pairs: as one packed row where that is exact, else padded."""
