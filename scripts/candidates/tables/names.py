"""What the name of a column means: one of the eight features, the class, or neither."""

import re

FEATURES = [
    "profile_mean",
    "profile_std",
    "profile_skewness",
    "profile_kurtosis",
    "dm_mean",
    "dm_std",
    "dm_skewness",
    "dm_kurtosis",
]
LABEL = "is_pulsar"

GROUPS, KINDS = ("profile", "dm"), ("mean", "std", "skewness", "kurtosis")
# The words of a feature's name. A name with any other word in it is no feature's.
WORDS = {
    "profile": "profile", "prof": "profile", "integrated": "profile", "ip": "profile",
    "pulse": "profile", "folded": "profile", "dm": "dm", "snr": "dm",
    "mean": "mean", "avg": "mean", "average": "mean",
    "std": "std", "stdev": "std", "stddev": "std", "sttdev": "std", "sdev": "std", "sd": "std",
    "sigma": "std", "deviation": "std", "dev": "std",
    "skewness": "skewness", "skew": "skewness",
    "kurtosis": "kurtosis", "kurt": "kurtosis", "ek": "kurtosis",
    "standard": "", "excess": "", "of": "", "the": "", "curve": "", "feature": "", "value": "",
}  # fmt: skip
WORD = re.compile("|".join(sorted(WORDS, key=len, reverse=True)))
LABELS = {
    "class", "classes", "target", "targetclass", "label", "labels", "ispulsar", "pulsar", "y",
    "truth", "outcome",
}  # fmt: skip
# The description that HTRU2 was published with has skewness and kurtosis the wrong way round.
PUBLISHED = {
    f"{kind}ofthe{group}"
    for kind in ("excesskurtosis", "skewness")
    for group in ("integratedprofile", "dmsnrcurve")
}


def feature_of(name):
    """The feature that a name means, as (group or None, kind), or None. Case, order and units do not
    matter."""
    return _meaning(re.sub(r"[()\[\]]", " ", name)) or _meaning(
        re.sub(r"\([^)]*\)|\[[^]]*\]", " ", name)
    )


def _meaning(name):
    found = set()
    for token in re.findall(r"[a-z]+|[^\sa-z_\-.,:/]", name.lower()):
        words = WORD.findall(token)
        if "".join(words) != token:
            return None
        found |= {WORDS[word] for word in words}
    kinds = [kind for kind in KINDS if kind in found]
    groups = [group for group in GROUPS if group in found]
    if len(kinds) != 1 or len(groups) > 1:
        return None
    return (groups[0] if groups else None, kinds[0])


def features_among(names):
    """For each of FEATURES, the columns whose name means it."""
    meanings = [feature_of(name) for name in names]
    if sum(meaning is not None and meaning[0] == "dm" for meaning in meanings) == len(KINDS):
        # "SD" beside "SD of the DM-SNR curve" is the profile's.
        meanings = [m if m is None or m[0] else ("profile", m[1]) for m in meanings]
    return [
        [column for column, meaning in enumerate(meanings) if meaning == (group, kind)]
        for group in GROUPS
        for kind in KINDS
    ]


def is_label(name):
    return compact(name) in LABELS


def are_published(names):
    """Whether any of these names has skewness and kurtosis the wrong way round."""
    return any(compact(name) in PUBLISHED for name in names)


def are_ours(names):
    return [name.strip() for name in names] == FEATURES


def are_counted(names):
    """Whether they only count: 0, 1, 2 ..., or V1, V2 ...; perhaps after that of an index."""
    names = [name.strip() for name in names]
    names = names[1:] if names and is_unnamed(names[0]) else names
    parts = [re.fullmatch(r"([A-Za-z_. ]*)(\d+)", name, re.ASCII) for name in names]
    if len(names) < 3 or not all(parts) or len({part.group(1) for part in parts}) > 1:
        return False
    numbers = [int(part.group(2)) for part in parts]
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def is_unnamed(name):
    """pandas calls a column without a name "Unnamed: 0"."""
    return compact(name) in ("", "unnamed") and not re.search(r"[.\d]*\d\.", name)


def compact(name):
    return re.sub(r"[^a-z]", "", name.lower())
