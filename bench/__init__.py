"""Speed of helios_shm, each figure beside a baseline measured in the same run: `python -m bench`."""
