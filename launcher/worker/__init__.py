"""The compute-node side: the only place where torch, transformers, trl, datasets and peft are imported."""
