"""The arms of the sweep over architectures: small models, and how far this project is from transformers and PEFT."""
