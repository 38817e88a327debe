"""Attacks that compare a model with shadow models: LiRA, BaVarIA and RMIA, and their shadows."""
