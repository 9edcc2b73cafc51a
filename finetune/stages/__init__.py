"""The stages of training. `sft` and `pt` share one loop (finetune.train) and differ in how examples are encoded
(finetune.encode.ENCODERS); stages that learn from preferences get a file of their own here."""
