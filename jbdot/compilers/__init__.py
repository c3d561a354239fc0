"""What the TPU and GPU compilers make of a program, with none of these devices here."""
