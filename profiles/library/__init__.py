"""The profiles that come with the project, by name: `library:unet3d-144-v100-16gb`."""
