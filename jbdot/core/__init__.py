"""What a contraction is: its labels, its errors, its words. Nothing here runs JAX."""
