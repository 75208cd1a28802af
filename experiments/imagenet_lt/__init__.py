"""ImageNet-LT with ResNet-10, from lists of image files."""
