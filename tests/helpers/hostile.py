"""Files as an attacker would make them: what test_hostile.py hands to the readers."""

import base64
import io
import json
import struct
import zipfile

import numpy as np

NASTY = (
    *("", " ", "\0", "\x1b[2J", "\u202e", "\ud800", "<img src=x onerror=alert(1)>", "../" * 9),
    *("x" * 2_001, "é" * 3_000, "-1", "1e999", "NaN", "9" * 5_000, "{}", "[]", "null", '{"a":'),
    *("16x16384", "1x16384 1x16384", "0x1", "[" * 3_000, '{"unet":"both"}', '{"\\ud800":1}'),
    *(None, True, 0, -1, 0.5, 1e308, 10**30, [], {}, [0], [-1], [1, 2, 3], [0, 10**12], [[0]]),
    *({"a": {}}, "F64", "F16", "F32", "BF16", "I64", "BOOL", "F8_E4M3"),
)


def pack(header, body=b"", length=None):
    """A safetensors file of this header (a dict, or bytes as they are) and body."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def unpack(data):
    """Header and body of a file that is in order."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def ordered(data):
    """The same file with its header sorted: safetensors writes metadata in any order."""
    header, body = unpack(data)
    return pack(json.dumps(header, sort_keys=True).encode(), body)


def entry(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def containers(good):
    """Attacks on the container that any safetensors file has: name -> bytes."""
    header, body = unpack(good)
    text, first = json.dumps(header).encode(), next(k for k in header if k != "__metadata__")
    many = {f"t{i}": entry("F32", [0], 0, 0) for i in range(100_000)}

    def changed(**fields):
        return pack(header | {first: header[first] | fields}, body)

    def again(key):
        return pack(text[:-1] + f', "{key}": {json.dumps(header[key])}}}'.encode(), body)

    start, stop = header[first]["data_offsets"]
    return {
        "no bytes": b"",
        "seven bytes": b"\x01" * 7,
        "no header": struct.pack("<Q", 0),
        "header of 2^64 - 1": pack(text, body, 2**64 - 1),
        "header of 2^63": pack(text, body, 2**63),
        "header of 2^31": pack(text, body, 2**31),
        "header beyond the end": pack(text, b"", len(text) + 1),
        "header cut": pack(text, body, len(text) - 1),
        "20 MB of metadata": pack({"__metadata__": {"format": "x" * 20_000_000}}),
        "5 MB of metadata": pack(header | {"__metadata__": {"format": "x" * 5_000_000}}, body),
        "100,000 empty tensors": pack(many),
        "30,000 empty tensors": pack(dict(list(many.items())[:30_000])),
        "key twice": again(first),
        "metadata twice": again("__metadata__"),
        "deep list": pack(b"[" * 150_000),
        "deep object": pack(b'{"a":' * 30_000),
        "deep metadata": pack(b'{"__metadata__":' + b"[" * 100_000),
        "UTF-16": pack(text.decode().encode("utf-16")),
        "no UTF-8": pack(text[:-2] + b"\xff\xfe" + text[-2:], body),
        "byte order mark": pack(b"\xef\xbb\xbf" + text, body),
        "NaN in the header": pack(text[:-1] + b', "x": NaN}', body),
        "half a character": pack(text[:-1] + b', "\\ud800": 1}', body),
        "huge number": pack(text[:-1] + b', "x": %s}' % (b"9" * 5_000), body),
        "trailing bytes": good + b"\0" * 8,
        "cut off": good[:-1],
        "offsets overlap": pack(header | {"u": header[first]}, body),
        "offsets backwards": changed(data_offsets=[stop, start]),
        "offsets negative": changed(data_offsets=[-8, stop]),
        "offsets beyond": changed(data_offsets=[start, stop + 2]),
        "offsets of 2^64": changed(data_offsets=[2**64, 2**64 + stop]),
        "offsets of text": changed(data_offsets=["0", str(stop)]),
        "a gap": changed(data_offsets=[start + 2, stop]),
        "shape wraps": changed(shape=[2**32, 2**32]),
        "shape negative": changed(shape=[-1]),
        "shape of truth": changed(shape=[True]),
        "shape of floats": changed(shape=[1.0]),
        "no shape": changed(shape=None),
        "1,000 dimensions": changed(shape=[1] * 1_000),
        "wrong dtype": changed(dtype="F64"),
        "unknown dtype": changed(dtype="PICKLE"),
        "dtype of a list": changed(dtype=["F16"]),
        "extra field": changed(code="import os"),
        "zip": zipped(),
        "pickle": b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "text": b"hello, this is not what it says",
        "gguf": b"GGUF\x03\0\0\0" + b"\0" * 64,
    }


def zipped():
    """A PyTorch checkpoint whose pickle would write a file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    return data.getvalue()


def concepts(good):
    """Attacks that only a concept file allows: name -> bytes."""
    header, body = unpack(good)
    held = header["__metadata__"]

    def text(**fields):
        return pack(header | {"__metadata__": held | fields}, body)

    def numbers(*values):
        array = np.frombuffer(body, "<f2").copy()
        array[: len(values)] = values
        return pack(header, array.tobytes())

    count, span = header["deltas"]["shape"][0], header["common"]["data_offsets"]
    big = {"deltas": entry("F32", [4_500_000], 0, 18_000_000)}
    return {
        "above the cap": pack(header | big, b"\0" * 18_000_000),
        "NaN": numbers(np.nan),
        "infinity": numbers(1, np.inf),
        "no metadata": pack({k: v for k, v in header.items() if k != "__metadata__"}, body),
        "metadata of numbers": text(rank=16),
        "metadata of a list": pack(header | {"__metadata__": []}, body),
        "version 4": text(version="4"),
        "version 6": text(version="6"),
        "outputs of a path": text(version="4", outputs='{"../text_encoder":[]}'),
        "outputs huge": text(version="4", outputs='{"text_encoder":[1099511627776]}'),
        "outputs of text": text(version="4", outputs='{"text_encoder":"9"}'),
        "outputs many": text(version="4", outputs='{"text_encoder":%s}' % [1] * 1_000),
        "version of nothing": text(version=""),
        "a common vector in version 2": text(version="2"),
        "a common vector of 1": pack(header | {"common": entry("U8", [1], *span)}, body),
        "a common vector of text": text(
            targets='{"text_encoder":"self"}', fingerprints='{"text_encoder":"%s"}' % ("0" * 32)
        ),
        "no common vector": pack({k: v for k, v in header.items() if k != "common"}, body),
        "version 2.0": text(version="2.0"),
        "another format": text(format="pt"),
        "unknown field": text(hook="os.system"),
        "unknown tensor": pack({("evil" if k == "deltas" else k): v for k, v in header.items()}),
        "matrix": pack(header | {"deltas": header["deltas"] | {"shape": [1, count]}}, body),
        "no layout": text(layout=""),
        "rank bomb": text(ranks="1048576x16384"),
        "many ranks": text(ranks=" ".join(["1"] * 50_000)),
        "rank of digits": text(ranks="9" * 4_000),
        "rank in Arabic digits": text(ranks="١٦x4"),
        "targets a path": text(targets='{"../../unet":"both"}'),
        "targets of a list": text(targets='["unet"]'),
        "targets twice": text(targets='{"unet":"both","unet":"both"}'),
        "fingerprint a path": text(fingerprints='{"unet":"%s"}' % ("../" * 10)),
        "settings deep": text(training='{"a":' + "[" * 1_500),
        "settings nested": text(training='{"a":{"b":1}}'),
        "settings infinite": text(training='{"a":1e999}'),
        "settings cut": text(training="{"),
        "half a character": text(training='{"a":"\\ud800"}'),
        "check short": text(check="AAAA"),
        "check NaN": text(check=base64.b64encode(np.full(8, np.nan, "<f4")).decode()),
        "trigger shape huge": text(trigger_shape='{"text_encoder":[1099511627776,1099511627776]}'),
        "trigger without rows": text(trigger_shape='{"text_encoder":[0,32]}'),
        "triggers huge": text(triggers='{"a":["dog",1,1e308]}'),
        "long word": text(token="x" * 2_001),
    }


def largest(good):
    """A concept file in order, as large as one may be."""
    header, body = unpack(good)
    count = 7_990_000
    ranks = f"1048576x{count >> 20} {count & (1 << 20) - 1}"
    held = header["__metadata__"] | {"ranks": ranks, "version": "2"}
    held = {k: v for k, v in held.items() if k != "trigger_shape"}
    header = {"__metadata__": held, "deltas": entry("F16", [count], 0, 2 * count)}
    return pack(header, b"\0" * (2 * count))


def largest_packed(good):
    """A concept file in order, with as many deltas in four bits as there may be."""
    count = 4_000_000
    held = unpack(good)[0]["__metadata__"] | {"ranks": "1000000x4", "version": "3"}
    held = {k: v for k, v in held.items() if k != "trigger_shape"}
    parts = {
        "scales": entry("F16", [4], 0, 8),
        "deltas": entry("U8", [count // 2], 8, 8 + count // 2),
    }
    return pack({"__metadata__": held, **parts}, b"\0\x3c" * 4 + b"\xff" * (count // 2))


def strangers(good):
    """Concept files in order that are not for the pipeline, or not of it: name -> bytes."""
    header, body = unpack(good)
    held, made = header["__metadata__"], {}
    rows = header["trigger"]["shape"][0]
    print_ = json.loads(held["fingerprints"])
    changes = {
        "another layout": {"layout": "0" * 32},
        "another base": {"fingerprints": json.dumps(dict.fromkeys(print_, "0" * 32))},
        "another family": {"family": "flux"},
        "a family of escapes": {"family": "\x1b[2J"},
        "another check": {"check": base64.b64encode(np.full(8, 9, "<f4").tobytes()).decode()},
        "a part that is none": {
            "targets": '{"__class__":"both"}',
            "fingerprints": json.dumps({"__class__": "0" * 32}),
        },
        "rows of the wrong width": {"trigger_shape": json.dumps({"text_encoder": [rows, 1]})},
        "rows for the UNet": {"trigger_shape": json.dumps({"unet": [1, rows]})},
        "rows for an output": {"version": "4", "outputs": '{"text_encoder":[]}'},
        "rows for nobody": {"trigger_shape": json.dumps({"text_encoder_9": [1, rows]})},
        "no class word": {"class_word": "", "triggers": json.dumps({"sks": ["", 1, 0.5]})},
    }
    for name, fields in changes.items():
        made[name] = pack(header | {"__metadata__": held | fields}, body)
    return made


def loras(good):
    """Attacks that only a LoRA file allows: name -> bytes."""
    header, body = unpack(good)
    down = next(k for k in header if k.endswith("lora_down.weight"))
    held = {k: v for k, v in header.items() if k != "__metadata__"}

    def tensors(*shapes, metadata=None):
        """Tensors of ones, float16."""
        made, start = {"__metadata__": metadata} if metadata else {}, 0
        for name, shape in shapes:
            size = 2 * int(np.prod(shape))
            made[name], start = entry("F16", shape, start, start + size), start + size
        return pack(made, np.ones(start // 2, "<f2").tobytes())

    def pair(up, down, **more):
        return tensors(("a.lora_up.weight", up), ("a.lora_down.weight", down), **more)

    def stated(value):
        return {"lora_adapter_metadata": f'{{"a.lora_alpha": {value}}}'}

    nan = np.full(len(body) // 4, np.nan, "<f4").tobytes()

    return {
        "NaN": pack(held, nan),
        "metadata of numbers": pack(held | {"__metadata__": {"a": 1}}, body),
        "settings deep": pack(held | {"__metadata__": stated("[" * 50_000)}, body),
        "settings of NaN": pack(held | {"__metadata__": stated("NaN")}, body),
        "a rank that fills the memory": pair([1, 100_000], [100_000, 1]),
        "alpha of 400 digits": pair([8, 4], [4, 8], metadata=stated("9" * 400)),
        "alpha of text": pair([8, 4], [4, 8], metadata=stated('"4"')),
        "half a pair": tensors(("a.lora_down.weight", [4, 8])),
        "a vector": pair([4], [4]),
        "no rows": pair([8, 4], [0, 8]),
        "up with more": pair([8, 4, 3, 3], [4, 8]),
        "another end": tensors(("a.hada_w1_a", [4, 8])),
        "a concept": tensors(("deltas", [16])),
        "names of escapes": tensors(("\x1b[2J\u202e.lora_down.weight", [4, 8])),
        "a long name": tensors(("x" * 100_000, [4])),
        "down is missing": pack({k: v for k, v in held.items() if k != down}, body),
    }


def mutants(goods, count, seed):
    """`count` files, each a good one with a few random changes of its bytes or its header."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        data = goods[random.integers(len(goods))]
        for _ in range(random.integers(1, 4)):
            change = (_bytes, _splice, _header)[random.integers(3)]
            data = change(data, goods, random)
        yield data


def _bytes(data, goods, random):
    """A few bytes changed, most of them where the header is."""
    found = bytearray(data)
    for _ in range(random.integers(1, 9)):
        if found:
            reach = len(found) if random.random() < 0.3 else min(len(found), 1_500)
            found[random.integers(reach)] = random.integers(256)
    return bytes(found)


def _splice(data, goods, random):
    """Cut off, doubled, or gone on with another file."""
    a, b = sorted(random.integers(0, len(data) + 1, 2))
    other = goods[random.integers(len(goods))]
    return (data[:a], data[:b] + data[a:], data[:a] + other[a:], data[:a] + data[b:])[
        random.integers(4)
    ]


def _header(data, goods, random):
    """A key of the header gone, renamed or given another value, and the length made right."""
    try:
        header, body = unpack(data)
        places = [header, *(v for v in header.values() if isinstance(v, dict))]
    except (ValueError, struct.error, AttributeError, RecursionError):
        return data  # changed so much already that nothing is left to choose from
    place, value = places[random.integers(len(places))], NASTY[random.integers(len(NASTY))]
    if place:
        key = list(place)[random.integers(len(place))]
        if random.random() < 0.2:
            place[value if isinstance(value, str) else "x"] = place.pop(key)
        else:
            place[key] = value
    return pack(header, body)
