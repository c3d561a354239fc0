"""Where the devices of a mesh are, and how fast they are and talk."""
