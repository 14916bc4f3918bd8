"""What a network learns from and is tested on."""
