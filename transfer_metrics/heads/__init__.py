"""What is trained on the chosen layers, and the check against fine-tuning."""
