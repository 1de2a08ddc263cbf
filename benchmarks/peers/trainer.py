"""transformers.Trainer, with its default settings or tuned for a CPU; adapters by PEFT.

python -m peers.trainer '{"strategy": "full", "data": …, …}'
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from peers.classifier import Classifier, student_of, teacher_of
from peers.job import Job, Split, answer, read

LINEAR = r"backbone\..*\.(query|key|value|dense)"


class DistillationTrainer(Trainer):
    """A Trainer whose loss asks the teacher for each batch, as tutorials do it.

    Args:
        teacher: The teacher, frozen and in eval mode.
        job: Temperature and weight of its outputs.
        **kwargs: Those of Trainer.
    """

    def __init__(self, *, teacher: nn.Module, job: Job, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.teacher, self.job = teacher, job

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Divergence from the teacher's softened distribution, and cross-entropy with the labels."""
        outputs = model(**inputs)
        if not model.training:
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        with torch.no_grad(), self.accelerator.autocast():
            asked = {name: tensor for name, tensor in inputs.items() if name != "labels"}
            teacher = self.teacher(**asked)["logits"].float()
        heat = self.job.temperature
        own = (outputs["logits"].float() / heat).log_softmax(1)
        soft = nn.functional.kl_div(own, (teacher / heat).log_softmax(1), reduction="batchmean", log_target=True)
        loss = self.job.alpha * heat**2 * soft + (1 - self.job.alpha) * outputs["loss"]
        return (loss, outputs) if return_outputs else loss


def dataset(split: Split, tokenizer: Any) -> Dataset:
    """A split, tokenised without padding."""
    columns = dict(tokenizer(split.texts, truncation=True, max_length=512))
    columns["length"] = [len(row) for row in columns["input_ids"]]
    return Dataset.from_dict({**columns, "labels": split.labels})


def model_of(job: Job, classes: int) -> tuple[nn.Module, nn.Module | None]:
    """What is trained, and its teacher."""
    if job.teacher is not None:
        teacher = teacher_of(job.teacher, job.base, classes, job.attention)
        return student_of(teacher, job.base, classes, job.dropout, job.attention), teacher
    options: dict[str, Any] = {"dropout": job.dropout, "attention": job.attention}
    if job.strategy == "scratch":
        return Classifier(
            job.base, classes, blocks=AutoConfig.from_pretrained(job.base).num_hidden_layers, **options
        ), None
    if job.strategy == "qlora":
        options["quantization"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if job.bf16 else torch.float32,
        )
    model: Any = Classifier(job.base, classes, **options)
    if job.strategy in ("head", "partial"):
        model.freeze_below(job.blocks if job.strategy == "partial" else 0)
    if job.strategy in ("lora", "qlora", "peft"):
        from peft import IA3Config, LoraConfig, get_peft_model

        if job.strategy == "qlora":
            # On processors with AVX512_BF16 they would be packed for inference, and pass no gradient afterwards.
            for module in model.modules():
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
        common = {"target_modules": LINEAR, "modules_to_save": ["classifier"]}
        if job.strategy == "peft":
            model = get_peft_model(model, IA3Config(feedforward_modules=[], **common))
        else:
            model = get_peft_model(model, LoraConfig(r=job.rank, lora_alpha=2 * job.rank, **common))
    return model, None


def arguments(job: Job, folder: str) -> TrainingArguments:
    """The Trainer's settings."""
    steps = 2 if job.memory else -1
    if not job.tuned:
        return TrainingArguments(
            output_dir=folder,
            num_train_epochs=job.epochs,
            max_steps=steps,
            per_device_train_batch_size=job.batch_size,
            seed=job.seed,
            report_to="none",
            disable_tqdm=True,
        )
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=job.epochs,
        max_steps=steps,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=64,
        seed=job.seed,
        bf16=job.bf16,
        use_cpu=True,
        optim="adamw_torch_fused",
        learning_rate=5e-5 if job.lr is None else job.lr,
        weight_decay=job.weight_decay,
        warmup_steps=job.warmup,
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=0,  # another process would take a core from the training
        dataloader_pin_memory=False,
        label_names=["labels"],
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def optimizer_of(model: nn.Module, job: Job) -> torch.optim.Optimizer | None:
    """AdamW with a learning rate of its own for the new head; None leaves it to the Trainer."""
    if not job.tuned or job.head_lr is None or job.lr is None:
        return None
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and "embeddings" not in name
            groups.setdefault(("classifier" in name, decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": job.head_lr if in_head else job.lr,
                "weight_decay": job.weight_decay if decayed else 0.0,
            }
            for (in_head, decayed), parameters in groups.items()
        ],
        fused=True,
    )


def trainer_of(job: Job, model: nn.Module, teacher: nn.Module | None, folder: str, **kwargs: Any) -> Trainer:
    """A Trainer for a model."""
    options: dict[str, Any] = {"model": model, "args": arguments(job, folder), **kwargs}
    optimizer = optimizer_of(model, job)
    if optimizer is not None:
        options["optimizers"] = (optimizer, None)
    return Trainer(**options) if teacher is None else DistillationTrainer(teacher=teacher, job=job, **options)


def accuracy(prediction: Any) -> dict[str, float]:
    """Share of the examples whose class is found."""
    return {"accuracy": float((np.asarray(prediction.predictions).argmax(1) == prediction.label_ids).mean())}


def work(job: Job) -> Mapping[str, Any]:
    """Train and score, or count live bytes."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    splits, names = read(job)
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    train = dataset(splits["train"], tokenizer)
    model, teacher = model_of(job, len(names))
    options = {"processing_class": tokenizer, "data_collator": DataCollatorWithPadding(tokenizer)}
    with tempfile.TemporaryDirectory() as folder:
        if job.memory:
            return {"peak_live_bytes": live_bytes(job, model, teacher, folder, train, options)}
        test = dataset(splits["test"], tokenizer)
        trainer = trainer_of(job, model, teacher, folder, train_dataset=train, compute_metrics=accuracy, **options)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        scores: Any = trainer.predict(test).metrics
    return {
        "train_seconds": seconds,
        "accuracy": scores["test_accuracy"],
        "examples": round(len(train) * job.epochs),
    }


def live_bytes(
    job: Job, model: nn.Module, teacher: nn.Module | None, folder: str, train: Dataset, options: Mapping[str, Any]
) -> int:
    """Most bytes of tensors alive at once over two updates at the longest texts, as hfstrat counts its own."""
    from hfstrat.training.memory import LiveBytes

    longest = np.argsort(-np.asarray(train["length"]), kind="stable")[: job.batch_size]
    trainer = trainer_of(job, model, teacher, folder, train_dataset=train.select(longest), **options)
    resident = [tensor for part in (model, teacher) if part is not None for tensor in part.state_dict().values()]
    with LiveBytes(resident) as live:
        trainer.train()
    return int(live.peak)


if __name__ == "__main__":
    answer(work)
