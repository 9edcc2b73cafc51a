"""Flags of `zhiwen finetune` and its config files: what each option means, in both languages, and how files are read."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.config import RunConfig, from_values, option_types
from finetune.config_file import add_options, given_options, read_toml
from ui.text import pick

HELP: dict[str, tuple[str, str]] = {
    "name": ("运行的名字", "name of the run"),
    "output_dir": ("运行文件夹放在哪里", "where the run folder is made"),
    "model_name_or_path": (
        "转换后的模型文件夹；tiny：极小的随机模型",
        "converted model folder; tiny: a tiny random model",
    ),
    "adapter": (
        "从哪个运行或适配器接着训练（前一阶段）",
        "run or adapter of an earlier stage to go on from",
    ),
    "stage": (
        "sft：对话；pt：纯文本；rm：奖励模型；dpo、kto：偏好；ppo：强化学习",
        "sft: conversations; pt: plain text; rm: reward model; dpo, kto: preferences; ppo: reinforcement",
    ),
    "dataset": ("数据集，多个用逗号隔开", "data sets, with commas between"),
    "dataset_dir": ("dataset_info.json 所在文件夹", "folder of dataset_info.json"),
    "eval_dataset": ("评估数据集", "evaluation sets"),
    "val_size": ("留作评估的比例（<1）或条数", "share (below 1) or number kept for evaluation"),
    "max_samples": ("每个数据集最多取多少条", "examples of each set at the most"),
    "template": (
        "对话模板；auto：模型自带的",
        "how a conversation is laid out; auto: the model's own",
    ),
    "cutoff_len": ("一条样本最多多少 token", "tokens of an example at the most"),
    "max_source_length": ("问题最多多少 token", "tokens of a question at the most"),
    "max_target_length": ("回答最多多少 token", "tokens of an answer at the most"),
    "strict": ("遇到坏行就停", "stop at a bad line"),
    "finetuning_type": ("方法", "method"),
    "quantization_bit": ("基座量化位数（lora、ptuning：8）", "bits of the base (lora, ptuning: 8)"),
    "lora_rank": ("LoRA 的秩", "rank of LoRA"),
    "lora_alpha": ("LoRA alpha；0 为秩的两倍", "alpha of LoRA; 0 is twice the rank"),
    "lora_dropout": ("LoRA dropout", "dropout of LoRA"),
    "lora_target": ("all，或模块名，用逗号隔开", "all, or names of modules, with commas"),
    "use_rslora": ("rsLoRA", "rsLoRA"),
    "use_dora": ("DoRA", "DoRA"),
    "loraplus_lr_ratio": ("LoRA+：B 与 A 的学习率之比", "LoRA+: learning rate of B over that of A"),
    "neftune_noise_alpha": ("NEFTune 噪声", "noise of NEFTune"),
    "freeze_trainable_layers": ("freeze：训练最后几层", "freeze: how many last layers are trained"),
    "pre_seq_len": ("ptuning：前缀长度", "ptuning: length of the prefix"),
    "prefix_projection": ("ptuning：用小网络生成前缀", "ptuning: make the prefix by a small network"),
    "num_train_epochs": ("轮数", "passes over the data"),
    "max_steps": ("最多多少步（优先于轮数）", "steps; wins over the epochs"),
    "per_device_train_batch_size": ("每次前向的样本数", "examples of one forward pass"),
    "gradient_accumulation_steps": ("梯度累积次数", "forward passes of one step"),
    "learning_rate": ("学习率", "learning rate"),
    "lr_scheduler_type": ("学习率曲线", "how the rate changes"),
    "warmup_ratio": ("预热占总步数的比例", "share of the steps for warm-up"),
    "warmup_steps": ("预热步数（优先）", "steps of warm-up; wins"),
    "num_cycles": ("余弦的波数或重启次数", "waves or restarts of the cosine"),
    "lr_end": ("polynomial 的终点", "end of polynomial"),
    "power": ("polynomial 的次数", "power of polynomial"),
    "plateau_patience": ("plateau：等几次评估", "plateau: evaluations to wait"),
    "plateau_factor": ("plateau：每次乘以多少", "plateau: what the rate is multiplied with"),
    "weight_decay": ("权重衰减", "weight decay"),
    "adam_beta1": ("AdamW beta1", "beta1 of AdamW"),
    "adam_beta2": ("AdamW beta2", "beta2 of AdamW"),
    "adam_epsilon": ("AdamW epsilon", "epsilon of AdamW"),
    "max_grad_norm": ("梯度裁剪；0 不裁剪", "clip gradients; 0 never"),
    "optim": ("优化器", "optimiser"),
    "precision": ("计算精度", "precision"),
    "device": ("设备：auto、cpu、cuda 或显卡序号", "auto, cpu, cuda, or the number of a GPU"),
    "packing": ("把样本拼成长行（只影响速度）", "pack examples into long rows (changes the speed only)"),
    "pack_tokens": ("每行 token 数；0 自动", "tokens of a row; 0 chooses"),
    "gradient_checkpointing": ("用重算换显存", "recompute activations to save memory"),
    "compile": ("编译各层", "compile the layers"),
    "parallel": (
        "多卡：ddp 每卡一份模型；fsdp 每卡一部分",
        "several GPUs: ddp a whole model each; fsdp a part each",
    ),
    "kernels": ("融合内核（LoRA，打包）", "fused layers for LoRA on packed rows"),
    "logging_steps": ("每几步记录一次", "steps between log lines"),
    "eval_steps": ("每几步评估；0 每轮", "steps between evaluations; 0: every epoch"),
    "save_steps": ("每几步存检查点", "steps between checkpoints"),
    "save_total_limit": ("保留几个检查点", "checkpoints to keep"),
    "early_stopping_patience": ("几次评估没有进步就停", "evaluations without progress before it ends"),
    "sample_steps": ("每几步看一次回答", "steps between sample answers"),
    "sample_prompts": ("看哪些问题的回答", "questions for samples"),
    "sample_tokens": ("示例回答最多多少 token", "tokens of a sample at the most"),
    "predict_with_generate": ("结束时回答评估集并打分", "answer the evaluation set at the end and measure"),
    "tensorboard": ("写 TensorBoard", "write for TensorBoard"),
    "pref_beta": ("dpo、kto：离开参考模型的代价", "dpo, kto: how dear it is to leave the reference"),
    "dpo_loss": ("dpo 的损失", "loss of dpo"),
    "dpo_label_smoothing": ("dpo：估计标反的比例", "dpo: share of pairs thought to be the wrong way round"),
    "kto_chosen_weight": ("kto：好评的权重", "kto: weight of desirable answers"),
    "kto_rejected_weight": ("kto：差评的权重", "kto: weight of undesirable answers"),
    "center_rewards_coefficient": ("rm：把分数拉向零；0 关闭", "rm: pulls scores towards zero; 0 is off"),
    "seed": ("随机种子", "seed"),
    "reward_model": ("ppo：打分的 rm 运行", "ppo: the rm run that scores"),
    "ppo_max_new_tokens": ("ppo：回答最多多少 token", "ppo: tokens of an answer at the most"),
    "ppo_temperature": ("ppo：采样温度", "ppo: temperature of sampling"),
    "ppo_epochs": ("ppo：每步的回答学几遍", "ppo: passes over the answers of a step"),
    "ppo_mini_batches": ("ppo：每遍更新几次", "ppo: updates of one pass"),
    "ppo_slots": ("ppo：同时写几个回答；0 自动", "ppo: answers written at once; 0 chooses"),
    "ppo_kl_coef": ("ppo：偏离参考模型的代价（起始）", "ppo: cost of distance from the reference, at first"),
    "ppo_kl_target": ("ppo：每个回答的目标 KL；0 不调节", "ppo: KL of an answer to steer to; 0 never steers"),
    "ppo_kl_horizon": ("ppo：调节的快慢（回答数）", "ppo: how fast it steers (answers)"),
    "ppo_gamma": ("ppo：折扣", "ppo: discount"),
    "ppo_lambda": ("ppo：GAE 的 lambda", "ppo: lambda of GAE"),
    "ppo_clip": ("ppo：概率比的裁剪", "ppo: clip of the probability ratio"),
    "ppo_clip_value": ("ppo：价值的裁剪；0 不裁剪", "ppo: clip of the value; 0 never"),
    "ppo_most_moved": (
        "ppo：一步最多移动多少（每 token 的 KL）；0 不限",
        "ppo: KL a token that a step may move; 0 any",
    ),
    "ppo_value_coef": ("ppo：价值损失的权重", "ppo: weight of the value loss"),
    "ppo_entropy_coef": ("ppo：熵的权重", "ppo: weight of the entropy"),
    "ppo_whiten": ("ppo：优势标准化", "ppo: whiten the advantages"),
    "ppo_score_norm": ("ppo：分数标准化", "ppo: normalise scores"),
    "ppo_score_clip": ("ppo：分数上下限；0 不限", "ppo: bound of scores; 0 has none"),
    "ppo_eos_penalty": ("ppo：回答没有自己结束时扣的分", "ppo: taken off where an answer does not end"),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for every option; not given means: as the file says, or the default."""
    add_options(parser, texts={name: pick(*HELP[name]) for name in option_types()})
    short = parser.add_mutually_exclusive_group()
    for name in ("bf16", "fp16", "fp32"):
        short.add_argument(
            f"--{name}", dest="option_precision", action="store_const", const=name, help=f"--precision {name}"
        )
    parser.add_argument("--gpu", dest="option_device", metavar="N", help=pick("用哪块显卡", "which GPU"))


def read_config(file: Path | None, args: argparse.Namespace) -> RunConfig:
    """The file's values, then the flags. Raises SettingsError."""
    values = read_toml(file) if file is not None else {}
    values |= given_options(args)
    return from_values(values)
