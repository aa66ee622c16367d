"""Trains a tiny, new GPT-2 with the Hugging Face Trainer; nothing is downloaded."""

import torch
from t9k.em.integrations.rank import create_run
from t9k.em.integrations.transformers import EMCallback
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


def main() -> None:
    run = create_run(name="transformers_train")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    tokens = torch.randint(0, 32, (16, 8))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    args = TrainingArguments(output_dir="out", max_steps=4, logging_steps=1, report_to="none", use_cpu=True)
    Trainer(model=model, args=args, train_dataset=data, callbacks=[EMCallback(run, checkpoints=True)]).train()
    run.finish()


if __name__ == "__main__":
    main()
