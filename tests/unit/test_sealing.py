"""What is sealed opens in its own place, with its own keys, unchanged; anything else is one error."""

import io
import json
import os
import random
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from shared.sealing import (
    CHUNK,
    BadKeyring,
    DataSealer,
    Keyring,
    SealBroken,
    SealedReader,
    SealedWriter,
    Sealer,
    check_code,
    hash_code,
    new_data_key,
)

RING = Keyring.generate()
SEALER = Sealer(RING)
PLACE = ("nordlys", "email", "row-1")
SECRET = "Søren.Østergård@example.dk".encode()


# --- fields --------------------------------------------------------------------------------------------------------


def test_a_sealed_field_opens_in_its_place() -> None:
    assert SEALER.open(*PLACE, SEALER.seal(*PLACE, SECRET)) == SECRET


def test_an_empty_field_can_be_sealed() -> None:
    assert SEALER.open(*PLACE, SEALER.seal(*PLACE, b"")) == b""


def test_a_sealed_field_shows_neither_content_nor_equality() -> None:
    one, two = SEALER.seal(*PLACE, SECRET), SEALER.seal(*PLACE, SECRET)
    assert one != two
    assert b"example" not in one


@pytest.mark.parametrize(
    "place",
    [
        ("sydlys", "email", "row-1"),
        ("nordlys", "phone", "row-1"),
        ("nordlys", "email", "row-2"),
        ("nordlysemail", "", "row-1"),
        ("nordlys", "emailrow-1", ""),
    ],
    ids=["another organisation", "another purpose", "another row", "shifted names", "shifted context"],
)
def test_a_sealed_field_does_not_open_elsewhere(place: tuple[str, str, str]) -> None:
    with pytest.raises(SealBroken):
        SEALER.open(*place, SEALER.seal(*PLACE, SECRET))


def test_no_byte_of_a_sealed_field_can_change() -> None:
    sealed = SEALER.seal(*PLACE, SECRET)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SealBroken):
            SEALER.open(*PLACE, bytes(changed))


def test_a_cut_or_lengthened_field_does_not_open() -> None:
    sealed = SEALER.seal(*PLACE, SECRET)
    for wrong in [sealed[:n] for n in range(len(sealed))] + [sealed + b"\0"]:
        with pytest.raises(SealBroken):
            SEALER.open(*PLACE, wrong)


def test_another_keyring_does_not_open_it() -> None:
    with pytest.raises(SealBroken):
        Sealer(Keyring.generate()).open(*PLACE, SEALER.seal(*PLACE, SECRET))


def test_the_error_tells_nothing() -> None:
    with pytest.raises(SealBroken, match="the seal does not open") as caught:
        SEALER.open("nordlys", "email", "row-2", SEALER.seal(*PLACE, SECRET))
    assert caught.value.__cause__ is None


# --- rotation ------------------------------------------------------------------------------------------------------


def test_after_a_rotation_the_old_field_still_opens_and_asks_to_be_resealed() -> None:
    old = SEALER.seal(*PLACE, SECRET)
    rotated = Sealer(RING.rotated())
    assert rotated.open(*PLACE, old) == SECRET
    assert rotated.needs_reseal(old)
    assert not SEALER.needs_reseal(old)


def test_a_resealed_field_opens_without_the_old_key() -> None:
    ring = RING.rotated()
    new = Sealer(ring).reseal(*PLACE, SEALER.seal(*PLACE, SECRET))
    retired = Sealer(Keyring(ring.current, {ring.current: ring.sealing[ring.current]}, ring.indexing))
    assert not retired.needs_reseal(new)
    assert retired.open(*PLACE, new) == SECRET
    with pytest.raises(SealBroken):
        retired.open(*PLACE, SEALER.seal(*PLACE, SECRET))


def test_a_rewrapped_data_key_is_the_same_key() -> None:
    data_key, rotated = new_data_key(), Sealer(RING.rotated())
    wrapped = SEALER.wrap("nordlys", "package", "p1", data_key)
    again = rotated.rewrap("nordlys", "package", "p1", wrapped)
    assert rotated.needs_reseal(wrapped)
    assert not rotated.needs_reseal(again)
    assert rotated.unwrap("nordlys", "package", "p1", again) == data_key


def test_indexes_survive_a_rotation() -> None:
    assert Sealer(RING.rotated()).index("nordlys", "email", "a@b.dk") == SEALER.index("nordlys", "email", "a@b.dk")


# --- index ---------------------------------------------------------------------------------------------------------


def test_an_index_finds_the_same_value_of_the_same_organisation_and_purpose_only() -> None:
    found = SEALER.index("nordlys", "email", "a@b.dk")
    assert found == SEALER.index("nordlys", "email", "a@b.dk")
    others = {
        SEALER.index("sydlys", "email", "a@b.dk"),
        SEALER.index("nordlys", "login", "a@b.dk"),
        SEALER.index("nordlys", "email", "a@b.de"),
        Sealer(Keyring.generate()).index("nordlys", "email", "a@b.dk"),
    }
    assert len(others) == 4
    assert found not in others
    assert len(found) == 64


def test_index_keys_are_not_sealing_keys() -> None:
    same_sealing = Sealer(Keyring(RING.current, RING.sealing, new_data_key()))
    assert same_sealing.open(*PLACE, SEALER.seal(*PLACE, SECRET)) == SECRET
    assert same_sealing.index("nordlys", "email", "x") != SEALER.index("nordlys", "email", "x")


# --- data keys -----------------------------------------------------------------------------------------------------


def test_a_wrapped_data_key_comes_back_in_its_place_only() -> None:
    data_key = new_data_key()
    wrapped = SEALER.wrap("nordlys", "package", "p1", data_key)
    assert SEALER.unwrap("nordlys", "package", "p1", wrapped) == data_key
    with pytest.raises(SealBroken):
        SEALER.unwrap("nordlys", "package", "p2", wrapped)


def test_a_wrapped_key_is_no_field_and_a_field_no_wrapped_key() -> None:
    with pytest.raises(SealBroken):
        SEALER.open(*PLACE, SEALER.wrap(*PLACE, new_data_key()))
    with pytest.raises(SealBroken):
        SEALER.unwrap(*PLACE, SEALER.seal(*PLACE, new_data_key()))


def test_only_a_whole_key_is_wrapped() -> None:
    with pytest.raises(BadKeyring, match="32 bytes"):
        SEALER.wrap(*PLACE, b"short")


def test_a_data_key_seals_fields_that_no_other_opens() -> None:
    key = new_data_key()
    sealed = DataSealer(key).seal("identifier:1", SECRET)
    assert DataSealer(key).open("identifier:1", sealed) == SECRET
    for opener, context in [(DataSealer(key), "identifier:2"), (DataSealer(new_data_key()), "identifier:1")]:
        with pytest.raises(SealBroken):
            opener.open(context, sealed)


# --- keyring -------------------------------------------------------------------------------------------------------


def test_a_keyring_file_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    RING.rotated().to_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keyring.from_file(path).current == 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_keyring_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    RING.to_file(path)
    path.chmod(mode)
    with pytest.raises(BadKeyring, match="chmod 600"):
        Keyring.from_file(path)


def test_a_keyring_never_overwrites_another(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    RING.to_file(path)
    with pytest.raises(FileExistsError):
        Keyring.generate().to_file(path)
    assert Keyring.from_file(path) == RING


def test_a_keyring_does_not_print_its_keys() -> None:
    assert repr(RING) == "Keyring(current=1)"


def document(**changes: object) -> str:
    return json.dumps(json.loads(RING.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must be JSON"),
        ("[]", "must be JSON"),
        ("{}", "must be JSON"),
        ("\ufffd", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        (document(sealing=[]), "must be JSON"),
        (document(sealing={"1": "?"}), "must be JSON"),
        (document(sealing={"one": "AAAA"}), "must be JSON"),
        (document(sealing={"1": 7}), "must be JSON"),
        (document(current=2), "current key"),
        (document(current=0, sealing={"0": json.loads(RING.to_json())["sealing"]["1"]}), "key ids"),
        (document(indexing="AAAA"), "32 bytes"),
        (document(indexing=json.loads(RING.to_json())["sealing"]["1"]), "differ"),
    ],
)
def test_a_broken_keyring_is_refused_by_the_name_of_the_rule(text: str, rule: str) -> None:
    with pytest.raises(BadKeyring, match=rule) as caught:
        Keyring.from_json(text)
    assert json.loads(RING.to_json())["indexing"] not in str(caught.value)


# --- streams -------------------------------------------------------------------------------------------------------

KEY = new_data_key()
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 17, 3 * CHUNK]


def sealed_stream(data: bytes, *, piece: int | None = None, context: str = "part:1", key: bytes = KEY) -> bytes:
    raw = io.BytesIO()
    with SealedWriter(raw, key, context) as writer:
        for start in range(0, len(data), piece or len(data) or 1):
            writer.write(data[start : start + (piece or len(data))])
    return raw.getvalue()


def opened(sealed: bytes, *, context: str = "part:1", key: bytes = KEY) -> bytes:
    return b"".join(SealedReader(io.BytesIO(sealed), key, context).chunks())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [None, 65_536, 700_001, CHUNK, CHUNK + 1])
def test_a_stream_comes_back_whatever_its_length_and_pieces(size: int, piece: int | None) -> None:
    data = random.Random(size).randbytes(size)
    assert opened(sealed_stream(data, piece=piece)) == data


def test_the_pieces_in_which_a_stream_was_written_do_not_show() -> None:
    data = bytes(2 * CHUNK)
    assert len({len(sealed_stream(data, piece=piece)) for piece in (None, 1000, CHUNK)}) == 1


def test_a_stream_is_read_by_lines() -> None:
    lines = [f'{{"n": {n}}}\n'.encode() for n in range(200_000)]
    reader = SealedReader(io.BytesIO(sealed_stream(b"".join(lines))), KEY, "part:1")
    assert list(io.BufferedReader(reader, CHUNK)) == lines


def test_a_stream_is_read_from_the_middle() -> None:
    data = random.Random(1).randbytes(3 * CHUNK)
    reader = SealedReader(io.BytesIO(sealed_stream(data)), KEY, "part:1")
    assert reader.seekable()
    for offset in [0, 1, CHUNK - 1, CHUNK, CHUNK + 5, 3 * CHUNK - 1, 3 * CHUNK, 2 * CHUNK, 0]:
        assert reader.seek(offset) == offset
        assert reader.tell() == offset
        assert reader.read(10) == data[offset : offset + 10]
    reader.seek(CHUNK)
    assert reader.seek(5, io.SEEK_CUR) == CHUNK + 5
    assert b"".join(reader.chunks()) == data[CHUNK + 5 :]
    assert reader.read(1) == b""


def test_a_stream_is_not_read_beyond_its_end_or_from_it() -> None:
    reader = SealedReader(io.BytesIO(sealed_stream(b"x" * 10)), KEY, "part:1")
    with pytest.raises(SealBroken):
        reader.seek(2 * CHUNK)
    with pytest.raises(io.UnsupportedOperation):
        reader.seek(0, io.SEEK_END)
    with pytest.raises(io.UnsupportedOperation):
        reader.seek(-1)


class Trickle(io.RawIOBase):
    """A pipe that gives and takes a little at a time and cannot seek."""

    def __init__(self, data: bytes = b"") -> None:
        self.inside = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        return self.inside.readinto(view[:99_991])

    def write(self, data: object) -> int:
        return self.inside.write(memoryview(data)[:99_991])  # type: ignore[arg-type]


def test_a_stream_passes_through_a_pipe_that_takes_little_at_a_time() -> None:
    data = random.Random(2).randbytes(2 * CHUNK + 3)
    pipe = Trickle()
    with SealedWriter(as_binary(pipe), KEY, "part:1") as writer:
        writer.write(data)
    reader = SealedReader(as_binary(Trickle(pipe.inside.getvalue())), KEY, "part:1")
    assert not reader.seekable()
    assert b"".join(reader.chunks()) == data


def as_binary(raw: io.RawIOBase) -> BinaryIO:
    return raw  # type: ignore[return-value]


HEAD = len(sealed_stream(b"")) - 16
STEP = CHUNK + 16


def test_a_stream_cut_anywhere_does_not_open() -> None:
    sealed = sealed_stream(random.Random(3).randbytes(2 * CHUNK + 100))
    for length in [0, 4, HEAD - 1, HEAD, HEAD + 5, HEAD + STEP - 1, HEAD + STEP, HEAD + 2 * STEP, len(sealed) - 1]:
        with pytest.raises(SealBroken):
            opened(sealed[:length])


def test_a_stream_cut_between_chunks_gives_what_was_checked_and_then_breaks() -> None:
    sealed = sealed_stream(b"a" * (2 * CHUNK))
    pieces = SealedReader(io.BytesIO(sealed[: HEAD + STEP]), KEY, "part:1").chunks()
    assert next(pieces) == b"a" * CHUNK
    with pytest.raises(SealBroken):
        next(pieces)


def test_chunks_can_neither_change_places_nor_repeat_nor_go_missing() -> None:
    sealed = sealed_stream(random.Random(4).randbytes(3 * CHUNK))
    head, one, two, three = sealed[:HEAD], *(sealed[HEAD + n * STEP :][:STEP] for n in range(3))
    assert opened(head + one + two + three)
    for wrong in [(two, one, three), (one, one, two, three), (one, three), (one, two, three, three), (three,)]:
        with pytest.raises(SealBroken):
            opened(head + b"".join(wrong))


@pytest.mark.parametrize("size", [0, 100, CHUNK, 2 * CHUNK])
def test_nothing_can_be_appended(size: int) -> None:
    sealed = sealed_stream(bytes(size))
    for tail in (b"\0", bytes(16), bytes(STEP)):
        with pytest.raises(SealBroken):
            opened(sealed + tail)


def test_a_stream_does_not_open_as_another_or_with_another_key() -> None:
    sealed = sealed_stream(b"x" * 100)
    with pytest.raises(SealBroken):
        opened(sealed, context="part:2")
    with pytest.raises(SealBroken):
        opened(sealed, key=new_data_key())


def test_chunks_cannot_be_swapped_between_files_of_one_name() -> None:
    one, two = sealed_stream(b"1" * 100), sealed_stream(b"2" * 100)
    with pytest.raises(SealBroken):
        opened(one[:HEAD] + two[HEAD:])


def test_no_byte_of_a_stream_can_change() -> None:
    sealed = sealed_stream(b"x" * 20)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SealBroken):
            opened(bytes(changed))


def test_a_writer_that_failed_in_the_middle_leaves_no_whole_stream() -> None:
    raw = io.BytesIO()
    with pytest.raises(RuntimeError, match="cut"), SealedWriter(raw, KEY, "part:1") as writer:
        writer.write(bytes(CHUNK + 1))
        raise RuntimeError("cut")
    with pytest.raises(SealBroken):
        opened(raw.getvalue())


def test_a_finished_stream_takes_no_more() -> None:
    writer = SealedWriter(io.BytesIO(), KEY, "part:1")
    writer.finish()
    writer.finish()
    with pytest.raises(ValueError, match="finished"):
        writer.write(b"x")


def test_a_stream_holds_a_few_chunks_in_memory_however_long(tmp_path: Path) -> None:
    path, block = tmp_path / "big", os.urandom(CHUNK)
    process = psutil.Process()
    before = process.memory_info().rss
    with path.open("wb") as raw, SealedWriter(raw, KEY, "big") as writer:
        for _ in range(100):
            writer.write(block)
    with path.open("rb") as sealed:
        size = sum(len(piece) for piece in SealedReader(sealed, KEY, "big").chunks())
    assert size == 100 * CHUNK
    assert process.memory_info().rss - before < 20 * CHUNK


# --- codes ---------------------------------------------------------------------------------------------------------


def test_a_code_is_checked_against_its_hash() -> None:
    hashed = hash_code("12345678")
    assert check_code("12345678", hashed)
    assert not check_code("12345679", hashed)
    assert "12345678" not in hashed


def test_two_hashes_of_one_code_differ() -> None:
    assert hash_code("12345678") != hash_code("12345678")


@pytest.mark.parametrize("hashed", ["", "scrypt", "scrypt$zz$zz", "scrypt$00$", "plain$00$12345678", "12345678"])
def test_what_is_no_hash_matches_no_code(hashed: str) -> None:
    assert not check_code("12345678", hashed)
    assert not check_code("", hashed)
