"""base_model: an open language model as safetensors, from a package, a hub name, a folder or made in code."""
