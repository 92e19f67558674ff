from setuptools import setup

setup(cffi_modules=["helios_shm/_ffi_build.py:ffi"])
