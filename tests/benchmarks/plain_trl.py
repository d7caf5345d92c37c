"""One run as TRL alone makes it, in a process of its own: python plain_trl.py SETTINGS, a JSON object (see grid.py).

Owns: what a script around DPOTrainer says, and the paired KTO loss, which TRL no longer has.
Must not know: anything of ours. The clock and the start of kto_pair are in shims/sitecustomize.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from sitecustomize import clocked, move
from trl import DPOConfig, DPOTrainer


class KtoPairTrainer(DPOTrainer):
    """DPOTrainer with the loss that TRL up to 0.9.4 had as kto_pair, with a live reference."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        reference = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        columns = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), reference, strict=True))
        self.precompute_ref_logps, forwards = True, []  # they are here: not once more

        def kept(**given: Any) -> Any:
            forwards.append(model(**given))
            return forwards[-1]

        super()._compute_loss(kept, inputs | columns, return_outputs)  # for its metrics
        chosen, rejected = (forwards[0].log_probs.sum(dim=1) - torch.cat(reference)).chunk(2)
        chosen_kl, rejected_kl = chosen.mean().clamp(min=0), rejected.mean().clamp(min=0)
        rewards = torch.cat([chosen - rejected_kl, chosen_kl - rejected])
        return (1 - torch.sigmoid(self.beta * rewards)).mean()


def main(run: dict[str, Any]) -> None:
    """Train, and save."""
    is_kto = run["loss_type"] == "kto_pair"
    arguments = DPOConfig(
        output_dir=run["output"],
        model_init_kwargs={"dtype": "float32"},
        loss_type=["sigmoid" if is_kto else run["loss_type"]],
        beta=run["beta"],
        learning_rate=run["learning_rate"],
        lr_scheduler_type="cosine",
        max_steps=run["steps"],
        per_device_train_batch_size=run["micro_batch"],
        max_length=run["max_length"],
        seed=run["seed"],
        data_seed=run["seed"],
        gradient_checkpointing=False,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = run["lora"]
    trainer = (KtoPairTrainer if is_kto else DPOTrainer)(
        model=run["model"],
        args=arguments,
        train_dataset=load_dataset("json", data_files=run["pairs"], split="train"),
        peft_config=lora
        and LoraConfig(r=lora["r"], lora_alpha=lora["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    if is_kto:
        move(trainer.model)
    with clocked("train", loss_type=run["loss_type"], beta=run["beta"]):
        trainer.train()
    trainer.save_model(run["output"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
