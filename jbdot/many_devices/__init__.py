"""How a contraction is shared out over a mesh: what each device holds, what it sends, and which way is taken."""
