"""The SageMaker framework images the orchestrator knows, and what is inside them.

    python -m orchestrator.images            # the table
    python -m orchestrator.images 1.9-0      # pip constraints for one scikit-learn image

A joblib file loads only under the scikit-learn that wrote it, so the image decides the
versions of everything: `params.yaml` names it once, the lock files, the package's check
and the payload follow.
"""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """A scikit-learn image: what it carries, and what a laptop can install to match it."""

    scikit_learn: str
    constraints: tuple[str, ...]  # what pip may choose, so that every Python gets the same pins
    pythons: tuple[str, str]  # oldest and newest Python that these pins install on


SKLEARN_IMAGES = {
    # No numpy 2 with scikit-learn 1.2.1: it was compiled against 1.x and fails at import.
    "1.2-1": Image(
        "1.2.1", ("numpy==1.26.4", "scipy<1.18", "pandas<3", "pyarrow<19"), ("3.11", "3.11")
    ),
    # numpy 2.5 and scipy 1.18 left Python 3.11.
    "1.9-0": Image("1.9.0", ("numpy<2.5", "scipy<1.18"), ("3.11", "3.13")),
}
DEFAULT_IMAGE = "1.9-0"

# Versions a payload may name, per framework. Those without an entry above are images the
# sandbox has no Python packages for; SageMaker itself runs them.
FRAMEWORK_VERSIONS = {
    "sklearn": ("0.23-1", "1.0-1", "1.2-1", "1.4-2", "1.9-0"),
    "xgboost": ("1.0-1", "1.2-1", "1.2-2", "1.3-1", "1.5-1", "1.7-1"),
}

# AWS publishes both frameworks from one account per region: sagemaker-python-sdk,
# image_uri_config/sklearn.json and xgboost.json.
REGISTRIES = {
    "af-south-1": "510948584623",
    "ap-east-1": "651117190479",
    "ap-northeast-1": "354813040037",
    "ap-northeast-2": "366743142698",
    "ap-northeast-3": "867004704886",
    "ap-south-1": "720646828776",
    "ap-southeast-1": "121021644041",
    "ap-southeast-2": "783357654285",
    "ap-southeast-3": "951798379941",
    "ca-central-1": "341280168497",
    "eu-central-1": "492215442770",
    "eu-central-2": "680994064768",
    "eu-north-1": "662702820516",
    "eu-south-1": "978288397137",
    "eu-south-2": "104374241257",
    "eu-west-1": "141502667606",
    "eu-west-2": "764974769150",
    "eu-west-3": "659782779980",
    "il-central-1": "898809789911",
    "me-central-1": "272398656194",
    "me-south-1": "801668240914",
    "sa-east-1": "737474898029",
    "us-east-1": "683313688378",
    "us-east-2": "257758044811",
    "us-west-1": "746614075791",
    "us-west-2": "246618743249",
}


def image_uri(framework: str, version: str, region: str) -> str:
    """The registry address of a framework image; KeyError for what the tables do not hold."""
    if version not in FRAMEWORK_VERSIONS[framework]:
        raise KeyError(version)
    host = f"{REGISTRIES[region]}.dkr.ecr.{region}.amazonaws.com"
    if framework == "sklearn":
        return f"{host}/sagemaker-scikit-learn:{version}-cpu-py3"
    return f"{host}/sagemaker-xgboost:{version}"


def sklearn_version_of(uri: str) -> str | None:
    """The `1.9-0` of a scikit-learn image's address, None for any other image."""
    _, found, tag = uri.partition("/sagemaker-scikit-learn:")
    return tag.removesuffix("-cpu-py3") if found else None


def main() -> None:
    if len(sys.argv) > 1:
        image = SKLEARN_IMAGES[sys.argv[1]]
        print(f"scikit-learn=={image.scikit_learn}", *image.constraints, sep="\n")
        return
    for version, image in SKLEARN_IMAGES.items():
        oldest, newest = image.pythons
        print(f"{version}  scikit-learn {image.scikit_learn}  Python {oldest} to {newest}")


if __name__ == "__main__":
    main()
