"""Kernels and a QEMU from the distribution's archive, by apt, unpacked into a cache of ours.

apt runs with lists of its own; the host's sources stay as they are. The archive is the one that the
host's sources name: on a host that is no Debian there is none, and `Unavailable` says so.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITES = ("bullseye", "bookworm", "trixie", "trixie-backports", "forky", "sid")
SECURITY = ("bullseye-security", "bookworm-security", "trixie-security")
NEWEST = "newest"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
TOOLS = ("apt-get", "dpkg", "depmod", "modprobe", "busybox", "xz", "zstd", "lz4", "setpriv",
         "unshare")
# Debian 12's QEMU 7.2 runs stale code where a kernel patches itself (static keys, probes), and the
# guest crashes; 10.0 does not. Its libraries are those of the distribution's own package.
QEMU_AT_LEAST = 10
QEMU = ("qemu-system-x86/bookworm-backports", "qemu-system-data/bookworm-backports")
BOOT_MODULES = ("virtio_pci", "virtiofs", "overlay")  # the others are loaded from the host's tree
INIT = Path(__file__).with_name("init.sh")
APPLETS = ("mount", "insmod", "mkdir", "cp", "switch_root", "poweroff", "uname", "ln", "ip",
           "hostname", "setsid", "sync", "cat")


class Unavailable(Exception):
    """Nothing can be fetched or booted here; the message is one line for the user."""


def cache() -> Path:
    """Where it is kept: some 150 MB a kernel, the lists and QEMU 250 MB."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("KTOP_KERNELS_CACHE") or f"{base}/ktop-kernels")


def check_tools() -> None:
    """Whether this machine has what is needed besides the archive."""
    if os.geteuid() != 0:
        raise Unavailable("needs root: it mounts what the guest sees")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"not installed: {' '.join(missing)}")
    if os.uname().machine != "x86_64":
        raise Unavailable(f"only for x86_64, this is {os.uname().machine}")
    if not os.path.exists(KEYS):
        raise Unavailable(f"{KEYS} is not there: is this a Debian?")


def mirrors() -> tuple[str, str]:
    """The Debian archive and its security archive, as this host's own apt sources name them."""
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"],
                          capture_output=True, text=True, check=False)
    found = {uri.rstrip("/").rpartition("/")[2]: uri for uri in done.stdout.split()}
    if "debian" not in found:
        raise Unavailable("apt's sources name no Debian archive to take kernels from")
    return found["debian"], found.get("debian-security", "")


def apt(tool: str, *args: str, cwd: str | None = None) -> str:
    """An apt tool with sources, lists and cache of its own."""
    base = cache() / "apt"
    for folder in ("lists", "archives"):
        (base / folder / "partial").mkdir(parents=True, exist_ok=True)
    options = (f"Dir::Etc::sourcelist={base}/sources.list", "Dir::Etc::sourceparts=/dev/null",
               f"Dir::State::Lists={base}/lists", f"Dir::Cache={base}", "APT::Sandbox::User=root",
               f"Dir::Cache::Archives={cwd or base / 'archives'}",
               "Dir::Etc::preferencesparts=/dev/null", "Acquire::Languages=none",
               "Acquire::Retries=3", "Acquire::http::Timeout=30")
    done = subprocess.run([tool, *(f"-o{o}" for o in options), *args], capture_output=True,
                          text=True, cwd=cwd, env={**os.environ, "LC_ALL": "C"}, check=False)
    if done.returncode and tool == "apt-get" and args[-1] != "update":
        reason = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise Unavailable((reason or [f"{tool} {args[0]} failed"])[0])
    return done.stdout


def update() -> None:
    """Read the archive's lists. A suite that is gone costs only what is in no other."""
    plain, security = mirrors()
    suites = [(plain, suite) for suite in (*SUITES, "bookworm-backports")]
    suites += [(security, suite) for suite in SECURITY if security]
    (cache() / "apt").mkdir(parents=True, exist_ok=True)
    (cache() / "apt" / "sources.list").write_text("".join(
        f"deb [arch=amd64 signed-by={KEYS}] {uri} {suite} main\n" for uri, suite in suites))
    apt("apt-get", "-q", "update")


def numbers(name: str) -> list[int]:
    """A sort key for version numbers."""
    return [int(n) for n in re.findall(r"\d+", name.replace("amd64", ""))]


def choose(names: list[str], spec: str) -> str | None:
    """The newest stock release that fits: "6.1", "6.1.0-56-amd64", "newest"."""
    stock = [m[1] for m in (re.fullmatch(r"linux-image-(\d+\.\d+[^ ]*-amd64)", n) for n in names)
             if m and not re.search(r"-(rt|cloud)-|unsigned|\drc|rc\d", m[1])]
    fit = [k for k in stock if spec in (NEWEST, k) or re.match(re.escape(spec) + "[.+-]", k)]
    return max(fit, key=numbers, default=None)


def resolve(spec: str) -> str:
    """The release that `spec` means now."""
    found = choose(apt("apt-cache", "pkgnames", "linux-image-").split(), spec)
    if found is None:
        raise Unavailable(f"the archive has no kernel {spec}, or cannot be reached")
    return found


def unpack(target: Path, *command: str) -> None:
    """Unpack the packages that an apt-get command downloads, all or nothing."""
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        tree = Path(folder) / "tree"
        apt("apt-get", "-q", *command, cwd=folder)
        for package in sorted(glob.glob(f"{folder}/*.deb")):
            subprocess.run(["dpkg", "-x", package, str(tree)], check=True)
        for name in ("lib", "lib64"):  # /usr/NAME is all that newer packages have
            if (tree / "usr" / name).exists() and not (tree / name).exists():
                (tree / name).symlink_to(f"usr/{name}")
        tree.rename(target)


def userland(suite: str) -> Path:
    """A tree with that suite's python3-bpfcc and all it needs: some 300 MB."""
    tree = cache() / f"bcc-{suite}"
    if not tree.exists():
        unpack(tree, "-oDir::State::status=/dev/null", "-oAPT::Install-Recommends=0",
               f"-oAPT::Default-Release={suite}", "--yes", "--download-only", "install",
               "python3-bpfcc")
    return tree


def vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage. QEMU starts it by PVH: no emulated unpacking."""
    for magic, tool in ((b"\xfd7zXZ\0", "xz"), (b"(\xb5/\xfd", "zstd"), (b"\x02!L\x18", "lz4")):
        for found in re.finditer(re.escape(magic), image):
            elf = subprocess.run([tool, "-dcq"], input=image[found.start():], check=False,
                                 capture_output=True).stdout
            if elf[:4] == b"\x7fELF":
                return elf
    return image


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """A newc archive of (name, mode, content)."""
    out = b""
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        for part in (head, data):
            out += part + b"\0" * (-(len(out) + len(part)) % 4)
    return out


def initramfs(tree: Path, release: str) -> bytes:
    """busybox, init.sh, and the few modules it takes to see the host's files."""
    folders = ("bin", "mod", "proc", "sys", "dev", "lower", "rw", "new", "share")
    entries = [(name, 0o40755, b"") for name in folders]
    busybox = shutil.which("busybox") or "busybox"
    entries += [("bin/busybox", 0o100755, Path(busybox).read_bytes())]
    entries += [(f"bin/{name}", 0o120777, b"busybox") for name in APPLETS]
    paths: dict[str, None] = {}
    for module in BOOT_MODULES:
        shown = subprocess.run(["modprobe", "-d", str(tree), "-S", release, "--show-depends",
                                module], capture_output=True, text=True, check=True).stdout
        paths.update(dict.fromkeys(re.findall(r"^insmod (\S+)", shown, re.MULTILINE)))
    for number, path in enumerate(paths):  # xz -f passes on what is not compressed
        module_bytes = subprocess.run(["xz", "-dcf", path], capture_output=True, check=True).stdout
        entries.append((f"mod/{number:02}.ko", 0o100644, module_bytes))
    return cpio([*entries, ("init", 0o100755, INIT.read_bytes())])


def kernel(release: str) -> Path:
    """A kernel's tree in the cache, with `vmlinux` and `initrd` to boot. No headers in it."""
    tree = cache() / release
    if not tree.exists():
        image = f"linux-image-{release}"
        shown = apt("apt-cache", "depends", image)
        needed = re.findall(r"^ +Depends: (linux-(?:binary|modules|base)-\d\S*)$", shown,
                            re.MULTILINE)
        unpack(tree, "download", image, *dict.fromkeys(needed))
    if not (tree / "vmlinux").exists():
        subprocess.run(["depmod", "-b", str(tree), release], check=True)
        images = [*tree.glob("boot/vmlinuz-*"), *tree.glob("lib/modules/*/vmlinuz")]
        (tree / "vmlinux").write_bytes(vmlinux(images[0].read_bytes()))
    (tree / "initrd").write_bytes(initramfs(tree, release))
    return tree


def qemu() -> tuple[str, list[str]]:
    """A QEMU that can be used, and where its firmware is."""
    ours = cache() / "qemu"
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise Unavailable("not installed: qemu-system-x86")
    version = subprocess.run([found, "--version"], capture_output=True, text=True,
                             check=False).stdout
    known = re.search(r"version (\d+)", version)
    if known and int(known[1]) >= QEMU_AT_LEAST:
        return found, []
    if not ours.exists():
        unpack(ours, "download", *QEMU)
    return f"{ours}/usr/bin/qemu-system-x86_64", [f"{ours}/usr/share/qemu", "/usr/share/seabios"]


def virtiofsd() -> str:
    """The daemon that shows the guest the host's files."""
    for path in ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"):
        if os.path.exists(path):
            return path
    raise Unavailable("not installed: virtiofsd (on Debian 12 it is in qemu-system-common)")
