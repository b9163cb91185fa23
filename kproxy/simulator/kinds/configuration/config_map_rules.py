"""What a ConfigMap may say: kube-apiserver's rules and words (`ValidateConfigMap`)."""

from collections.abc import Iterator

import msgspec

from kproxy.simulator.kinds.configuration import data
from kproxy.simulator.store import resources, statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object


class Shape(msgspec.Struct, rename="camel"):
    """A ConfigMap, as far as there are rules for it."""

    data: dict[str, str] | None = None
    binary_data: dict[str, str] | None = None
    immutable: bool | None = None


def set_defaults(config_map: Object) -> None:
    """Spell `binaryData` as kube-apiserver does. Raises BadRequest for what is not base64."""
    data.encode_anew(resources.CONFIG_MAPS, config_map, "binaryData")


def violations(config_map: Object) -> Iterator[Cause]:
    """What is wrong with a ConfigMap by itself. Raises BadRequest for data that is not base64."""
    texts = config_map.get("data") or {}
    contents = data.decoded(resources.CONFIG_MAPS, config_map.get("binaryData"))
    yield from data.key_violations(texts, "data")
    for key in texts.keys() & contents.keys():
        detail = "duplicate of key present in binaryData"
        yield statuses.invalid_value(f"data[{key}]", key, detail)
    yield from data.key_violations(contents, "binaryData")
    encoded = {key: text.encode(errors="replace") for key, text in texts.items()}
    if data.size(encoded, contents) > data.LARGEST:
        yield statuses.too_long_value("[]", data.LARGEST)


def update_violations(old: Object, new: Object) -> Iterator[Cause]:
    """What may not change of an immutable ConfigMap."""
    yield from data.immutable_violations(old, new, ("data", "binaryData"))
