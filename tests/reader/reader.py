#!/usr/bin/env python3
"""A second reader of remora's repositories, written from docs/format.md alone.

    reader.py REPOSITORY SECRET-FILE            prints the points as JSON
    reader.py REPOSITORY SECRET-FILE FOLDER     also writes FOLDER/<point>/<disk>.raw for every disk of every point

It is strict: whatever docs/format.md does not name is an error, so that a changed format does not pass for version 1.
"""

import json
import os
import re
import sys

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

BLOCK = 65536
LEAF_BLOCKS = 1024
FANOUT = 256
CHUNK, NODE, INDEX, DETAILS, MANIFEST, DATA_KEY, SLOT = range(1, 8)
PART_OF_CHUNK = 11
HEX16 = re.compile(r"[0-9a-f]{16}\Z")


class Malformed(Exception):
    """Something is not as docs/format.md says."""


def must(condition, what):
    if not condition:
        raise Malformed(what)


def subkey(context, key):
    return blake3(key, derive_key_context="remora vault v1 " + context).digest()


def keyed(key, data, length=32):
    return blake3(data, key=key).digest(length)


def exactly(fields, *names):
    """The values of a JSON object that has these fields and no others."""
    must(sorted(fields) == sorted(names), f"fields {sorted(fields)} instead of {sorted(names)}")
    return [fields[name] for name in names]


class Fields:
    """Reads a binary form from its start to its very end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        must(self.at + count <= len(self.data), "cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def end(self):
        must(self.at == len(self.data), "something follows the end")


class Repository:
    def __init__(self, folder, secret):
        self.folder = folder
        descriptor = json.loads(self.object("remora.json"))
        kind, version, identity, created, checksum = exactly(descriptor, "kind", "format", "id", "created", "checksum")
        must((kind, version) == ("remora vault", 1), f"{kind} of format {version}")
        text = f"{kind}\n{version}\n{identity}\n{created}\n".encode()
        must(blake3(text).hexdigest() == checksum, "the descriptor's checksum")
        self.id = bytes.fromhex(identity)
        root = self.unlock(secret)
        names = subkey("tenant names", root)
        self.tenant = keyed(names, b"default", 8)
        place = self.place(DATA_KEY, bytes(16), 0)
        data_key = self.open_object(subkey("tenant keys", root), place, self.object(f"t/{self.tenant.hex()}/key"))
        purposes = ["vm names", "manifests", "segment footers", "chunks", "map nodes", "block digests", "chunk ids"]
        self.keys = {purpose: subkey(purpose, data_key) for purpose in purposes}

    def object(self, name):
        with open(os.path.join(self.folder, name), "rb") as file:
            return file.read()

    def unlock(self, secret):
        """The repository key, from the first slot that the secret opens."""
        for name in sorted(os.listdir(os.path.join(self.folder, "keys"))):
            slot = json.loads(self.object(f"keys/{name}"))
            created, opens_by, wrapped, checksum = exactly(slot, "created", "opens_by", "wrapped", "checksum")
            text, wrapping = self.wrapping(opens_by, secret)
            must(blake3(f"{created}\n{text}\n{wrapped}\n".encode()).hexdigest() == checksum, "a slot's checksum")
            place = self.place(SLOT, bytes(16), 0, tenant=bytes(8))
            try:
                return self.open_object(wrapping, place, bytes.fromhex(wrapped))
            except Exception:
                continue
        raise Malformed("no slot opens with this secret")

    @staticmethod
    def wrapping(opens_by, secret):
        """How a slot's checksum says what opens it, and the wrapping key."""
        if opens_by == "key-file":
            return "key-file", subkey("key files", secret)
        (argon2id,) = exactly(opens_by, "passphrase")
        cost, salt = exactly(argon2id, "cost", "salt")
        memory, passes, lanes = exactly(cost, "memory_kib", "passes", "lanes")
        argon2id = Argon2id(
            salt=bytes.fromhex(salt), length=32, iterations=passes, lanes=lanes, memory_cost=memory
        )
        return f"passphrase {memory} {passes} {lanes} {salt}", argon2id.derive(secret)

    def place(self, kind, thing, number, tenant=None):
        tenant = self.tenant if tenant is None else tenant
        return kind, b"remora v1" + bytes([kind]) + self.id + tenant + thing + number.to_bytes(8, "big"), number

    @staticmethod
    def open_sealed(key, salt, place, sealed):
        _, associated, number = place
        return AESGCM(keyed(key, salt)).decrypt(bytes(4) + number.to_bytes(8, "big"), sealed, associated)

    def open_object(self, key, place, data):
        return self.open_sealed(key, data[:32], place, data[32:])

    def vms(self):
        folder = os.path.join(self.folder, "t", self.tenant.hex())
        return [Vm(self, name) for name in sorted(os.listdir(folder)) if HEX16.match(name)]


class Vm:
    def __init__(self, repository, name):
        self.repository, self.name, self.folder = repository, name, bytes.fromhex(name)
        self.path = f"t/{repository.tenant.hex()}/{name}"
        self.segments = {}

    def entries(self):
        """The entries of the VM's sequence that count, in order."""
        folder = os.path.join(self.repository.folder, self.path, "m")
        numbers = sorted(os.listdir(folder))
        must(numbers == [f"{n:012}" for n in range(1, len(numbers) + 1)], "a gap in the sequence, or a name")
        newest = self.entry(len(numbers))
        if newest["kind"] != "tombstone" and newest["tombstone"]:
            newest = self.entry(newest["tombstone"])
        dropped = newest["said"]["dropped"] if newest["kind"] == "tombstone" else []
        count = [n for n in range(1, len(numbers) + 1) if not any(first <= n <= last for first, last in dropped)]
        return [self.entry(number) for number in count]

    def entry(self, sequence):
        data = self.repository.object(f"{self.path}/m/{sequence:012}")
        must(data[:8] == b"remoraM1", "an entry's first bytes")
        place = self.repository.place(MANIFEST, self.folder + bytes(8), sequence)
        text = unzstd(self.repository.open_object(self.repository.keys["manifests"], place, data[8:]), 16 << 20)
        said = {"settings": 0, **json.loads(text)}  # Left out while nothing was ever set
        vm, _, _, tombstone, _, entry = exactly(said, "vm", "written", "session", "tombstone", "settings", "entry")
        must(keyed(self.repository.keys["vm names"], vm.encode(), 8) == self.folder, "an entry of another VM")
        ((kind, said),) = entry.items()
        hashed = blake3(data).hexdigest()
        return {"sequence": sequence, "hash": hashed, "tombstone": tombstone, "kind": kind, "said": said}

    def points(self):
        """The points that are listed, oldest first."""
        entries = self.entries()
        hashes = {f"{self.name}-{entry['sequence']}": entry["hash"] for entry in entries}
        for entry in entries:
            if entry["kind"] == "break":
                exactly(entry["said"], "time", "path", "reason")
            elif entry["kind"] == "lost":
                exactly(entry["said"], "time", "segments")
            elif entry["kind"] == "tombstone":
                exactly({"holds": {}, "ended": [], **entry["said"]}, "dropped", "holds", "ended")
            else:
                must(entry["kind"] == "point", f"an entry of kind {entry['kind']}")
                point = Point(self, *exactly(entry["said"], "point", "parent_hash", "block_size", "maps", "segments"))
                must(point.said["id"] == f"{self.name}-{entry['sequence']}", "a point's id")
                parent = hashes.get(point.said["parent"])  # None too if the parent was dropped
                must(parent in (None, point.parent_hash), "the parent's hash")
                yield point

    def segment(self, name):
        if name not in self.segments:
            self.segments[name] = Segment(self, name)
        return self.segments[name]


class Point:
    def __init__(self, vm, said, parent_hash, block_size, maps, segments):
        must(block_size == BLOCK and len(maps) == len(said["disks"]), "a point's shape")
        self.vm, self.said, self.parent_hash, self.maps = vm, said, parent_hash, maps
        for segment in segments:
            exactly(segment, "id", "holds", "len")

    def restore(self, folder):
        for disk, entry in zip(self.said["disks"], self.maps):
            (root,) = exactly(entry, "root")
            with open(os.path.join(folder, disk["name"] + ".raw"), "wb") as file:
                file.truncate(disk["size"])
                if root is not None:
                    segment, number = exactly(root, "segment", "number")
                    blocks = -(-disk["size"] // BLOCK)
                    self.node(file, disk["size"], bytes.fromhex(segment), number, 0, blocks, level_of(blocks))

    def node(self, file, size, segment, number, first, blocks, level):
        """Writes the blocks from `first` that lie below a node; the disk has `blocks` in all."""
        fields = Fields(self.vm.segment(segment).record(b"n", number)[0])
        must(fields.take(1) == (b"I" if level else b"L"), "a node's tag")
        table = [fields.take(16) for _ in range(fields.number())]
        if level == 0:
            self.leaf(file, size, fields, table, first, min(first + LEAF_BLOCKS, blocks))
        else:
            span = LEAF_BLOCKS * FANOUT ** (level - 1)
            count = fields.number()
            must(count == min(FANOUT, -(-(blocks - first) // span)), "a node's children")
            for child in range(first, first + count * span, span):
                where = fields.number()
                if where:
                    self.node(file, size, table[where - 1], fields.number(), child, blocks, level - 1)
        fields.end()

    def leaf(self, file, size, fields, table, block, end):
        while block < end:
            run = fields.number()
            count = run >> 1
            must(0 < count <= end - block, "a run's length")
            if run & 1:
                segment, number, skip = table[fields.number()], fields.number(), fields.take(1)[0]
                at = block * BLOCK
                length = min(count * BLOCK, size - at)
                chunk, there = self.vm.segment(segment).record(b"c", number)
                must(all(n in there for n in range(skip, skip + count)), "a block that is lost")
                chunk = chunk[skip * BLOCK :][:length]
                must(len(chunk) == length, "a chunk shorter than its run")
                file.seek(at)
                file.write(chunk)
            block += count


class Segment:
    """All generations of a segment: a record is read from the first that has it whole, or from several in parts."""

    def __init__(self, vm, name):
        folder = vm.repository.folder
        paths = [f"{vm.path}/s/{name.hex()}" + suffix for suffix in ["", *(f".{n}" for n in range(1, 32))]]
        paths = [path for path in paths if os.path.exists(os.path.join(folder, path))]
        must(paths, "a segment without an object")
        self.generations, self.damage = [], []
        for path in paths:
            try:
                self.generations.append(Generation(vm.repository, name, vm.repository.object(path)))
            except (Malformed, InvalidTag) as damage:
                self.damage.append(damage)

    def record(self, holds, number):
        """A record, and which of its blocks are there."""
        damage, parts = [*self.damage], []
        for generation in self.generations:
            try:
                return generation.record(holds, number), range(16)
            except (Malformed, InvalidTag, KeyError, zstandard.ZstdError) as error:
                damage.append(error)
            try:
                parts.append(generation.part_of_chunk(holds, number))
            except (Malformed, InvalidTag, KeyError, zstandard.ZstdError):
                pass
        if not parts:
            raise damage[0]
        chunk, there = parts[0]
        for other, more in parts[1:]:
            for n in more - there:
                chunk = chunk[: n * BLOCK] + other[n * BLOCK : (n + 1) * BLOCK] + chunk[(n + 1) * BLOCK :]
            there = there | more
        return chunk, there


class Generation:
    def __init__(self, repository, name, data):
        self.repository, self.name, self.data = repository, name, data
        must(data[:8] == b"remoraS1" and data[8:24] == name and data[-8:] == b"remoraF1", "a segment's ends")
        salt, details_len, index_len = data[-48:-16], *(int.from_bytes(data[a:a + 4], "little") for a in (-16, -12))
        index_at = len(data) - 48 - index_len
        details_at = index_at - details_len
        must(details_at >= 24, "a footer larger than its segment")
        key = repository.keys["segment footers"]
        index = repository.open_sealed(key, salt, repository.place(INDEX, name, 0), data[index_at : len(data) - 48])
        details = repository.open_sealed(key, salt, repository.place(DETAILS, name, 1), data[details_at:index_at])
        fields = Fields(index)
        self.holds, self.salt = fields.take(1), fields.take(32)
        must(self.holds in (b"c", b"n"), "what a segment holds")
        self.records, number, at = {}, 0, 24
        for _ in range(fields.number()):
            number += fields.number()
            length, packed = fields.number(), fields.number()
            self.records[number] = at, length, packed >> 1, packed & 1
            number, at = number + 1, at + length
        fields.end()
        must(at == details_at, "records that do not end where the details begin")
        fields, self.details = Fields(details), {}
        for number, (_, _, plain_len, _) in self.records.items() if self.holds == b"c" else ():
            self.details[number] = fields.take(16), [fields.take(16) for _ in range(-(-plain_len // BLOCK))]
        fields.end()

    def record(self, holds, number):
        kind, key = (CHUNK, "chunks") if holds == b"c" else (NODE, "map nodes")
        plain = self.unpack(number, self.open(holds, number, kind, key))
        if holds == b"c":
            identity, digests = self.details[number]
            must(self.digests(plain) == digests, "a block's digest")
            must(keyed(self.repository.keys["chunk ids"], b"".join(digests), 16) == identity, "a chunk's id")
        return plain

    def part_of_chunk(self, holds, number):
        """A chunk of which some blocks are lost, and the numbers of those that are there."""
        must(holds == b"c", "a part of something else")
        data = self.open(holds, number, PART_OF_CHUNK, "chunks")
        plain = self.unpack(number, data[2:])
        there = {n for n in range(16) if int.from_bytes(data[:2], "little") >> n & 1}
        digests = self.digests(plain)
        must(all(digests[n] == self.details[number][1][n] for n in there), "a block's digest")
        return plain, there

    def open(self, holds, number, kind, key):
        must(self.holds == holds, "a segment that holds something else")
        at, length, _, _ = self.records[number]
        place = self.repository.place(kind, self.name, number)
        return self.repository.open_sealed(self.repository.keys[key], self.salt, place, self.data[at : at + length])

    def unpack(self, number, data):
        _, _, plain_len, is_zstd = self.records[number]
        plain = unzstd(data, plain_len) if is_zstd else data
        must(len(plain) == plain_len, "a record's length")
        return plain

    def digests(self, chunk):
        key = self.repository.keys["block digests"]
        return [keyed(key, chunk[at : at + BLOCK], 16) for at in range(0, len(chunk), BLOCK)]


def level_of(blocks):
    """The level of the root of a disk's map."""
    level, nodes = 0, -(-blocks // LEAF_BLOCKS)
    while nodes > 1:
        level, nodes = level + 1, -(-nodes // FANOUT)
    return level


def unzstd(data, limit):
    plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=limit)
    must(len(plain) <= limit, "a frame longer than it may be")
    return plain


def main():
    secret = open(sys.argv[2], "rb").read()
    repository = Repository(sys.argv[1], secret.removesuffix(b"\n"))
    listed = []
    for vm in repository.vms():
        for point in vm.points():
            listed.append(point.said)
            if len(sys.argv) > 3:
                folder = os.path.join(sys.argv[3], point.said["id"])
                os.makedirs(folder)
                point.restore(folder)
    json.dump(listed, sys.stdout)


if __name__ == "__main__":
    main()
