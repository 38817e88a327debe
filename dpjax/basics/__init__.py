"""What every room may use: types, checks of options, the options of LoRA."""
