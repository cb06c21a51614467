"""merge: SCE fusion of experts, tensor by tensor."""
