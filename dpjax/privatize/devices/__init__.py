"""What is around a gradient: meshes, named axes, and what a program does beside computing."""
