"""How one dot is carried out on one device: the mark on it, its lowerings, and the choice between them."""
