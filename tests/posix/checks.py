"""What any POSIX file system does, asked of a mounted folder.

    python3 checks.py NAME MOUNTPOINT REFERENCE

REFERENCE holds plain copies of the files that the server had. Runs the check NAME and
exits with 0 if everything it says is so.
"""

import ctypes
import errno
import faulthandler
import fcntl
import mmap
import os
import shutil
import stat
import subprocess
import sys
import time
import traceback

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def refused(number, call, *args, **kwargs):
    """`call` fails with this errno."""
    numbers = number if isinstance(number, tuple) else (number,)
    try:
        result = call(*args, **kwargs)
    except OSError as error:
        names = [errno.errorcode[n] for n in numbers]
        assert error.errno in numbers, f"{error!r} instead of {names}"
        return
    raise AssertionError(f"{call} {args} gave {result!r} instead of {numbers}")


def same(a, b, what=""):
    if a != b:
        show = lambda v: f"{len(v)} bytes" if isinstance(v, bytes) and len(v) > 80 else repr(v)
        raise AssertionError(f"{what}: {show(a)} is not {show(b)}")


def slurp(path):
    with open(path, "rb") as file:
        return file.read()


def spit(path, data, mode="wb"):
    with open(path, mode) as file:
        file.write(data)


def child(function):
    """Runs `function` in another process; fails if it does."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def wait(pid):
    _, status = os.waitpid(pid, 0)
    same(status, 0, "the other process")


def elsewhere(function):
    wait(child(function))


def files(mnt, ref):
    """One file of each sort, with what is in it: held, only at the server, made here."""
    held = slurp(f"{ref}/held.bin")
    same(slurp(f"{mnt}/held.bin"), held, "held")
    spit(f"{mnt}/new.bin", held[:30_000])
    yield f"{mnt}/held.bin", held
    yield f"{mnt}/remote.bin", slurp(f"{ref}/remote.bin")
    yield f"{mnt}/new.bin", held[:30_000]


@check
def reading(mnt, ref):
    for path, data in files(mnt, ref):
        fd = os.open(path, os.O_RDONLY)
        size = len(data)
        same(os.fstat(fd).st_size, size, path)
        for offset in (0, 1, 511, 4095, 4097, size - 5, size - 1, size, size + 1, size + 10_000):
            for length in (0, 1, 2, 7, 4096, 5001, 200_000):
                same(os.pread(fd, length, offset), data[offset : offset + length], (path, offset, length))
        same(os.lseek(fd, -3, os.SEEK_END), size - 3)
        same(os.read(fd, 10), data[-3:])
        refused(errno.EBADF, os.write, fd, b"x")
        os.close(fd)
        refused(errno.EEXIST, os.open, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        refused(errno.ENOTDIR, os.open, path + "/x", os.O_RDONLY)
        refused(errno.ENOTDIR, os.open, path, os.O_RDONLY | os.O_DIRECTORY)
    refused(errno.ENOENT, os.open, f"{mnt}/nothing", os.O_RDONLY)
    refused(errno.EISDIR, os.open, f"{mnt}/tree", os.O_WRONLY)
    refused(errno.EISDIR, os.open, f"{mnt}/tree", os.O_RDWR | os.O_CREAT)
    same(slurp(f"{mnt}/empty.bin"), b"")


@check
def writing(mnt, ref):
    for path, data in files(mnt, ref):
        with open(path, "r+b", buffering=0) as file:
            other = os.open(path, os.O_RDONLY)
            file.seek(7777)
            file.write(b"in the middle")
            data = data[:7777] + b"in the middle" + data[7777 + 13 :]
            same(os.pread(other, len(data) + 9, 0), data, "a second descriptor")
            elsewhere(lambda: same(slurp(path), data, "a second process"))
            same(os.stat(path).st_size, len(data))
            os.close(other)
        same(slurp(path), data, path)
        spit(path, b"the end", "ab")
        data += b"the end"
        same(slurp(path), data, path)
        same(os.stat(path).st_size, len(data))

        fd = os.open(path, os.O_RDWR)
        os.ftruncate(fd, 5000)
        same(os.fstat(fd).st_size, 5000)
        same(os.stat(path).st_size, 5000)
        os.ftruncate(fd, 6001)
        data = data[:5000] + bytes(1001)
        same(os.pread(fd, 9999, 0), data, "after ftruncate")
        os.pwrite(fd, b"far", 9000)
        data += bytes(9000 - 6001) + b"far"
        os.close(fd)
        same(slurp(path), data, "with a hole")

        os.truncate(path, 100)
        same(slurp(path), data[:100], "after truncate")
        os.truncate(path, 200)
        same(slurp(path), data[:100] + bytes(100), "after truncate")
        os.truncate(path, 0)
        same(slurp(path), b"")
        spit(path, b"again")
        same(slurp(path), b"again")
        fd = os.open(path, os.O_RDWR | os.O_TRUNC)
        same(os.fstat(fd).st_size, 0)
        elsewhere(lambda: same(os.stat(path).st_size, 0))
        os.write(fd, b"short")
        elsewhere(lambda: same(slurp(path), b"short"))
        os.close(fd)
        same(slurp(path), b"short")
        same(os.stat(path).st_size, 5)
    # By name only, of files that nobody had open here before.
    far = slurp(f"{ref}/far1.bin")
    os.truncate(f"{mnt}/far1.bin", 40_001)
    same(slurp(f"{mnt}/far1.bin"), far[:40_001])
    os.truncate(f"{mnt}/far2.bin", 0)
    same(slurp(f"{mnt}/far2.bin"), b"")
    spit(f"{mnt}/far3.bin", b"and more", "ab")
    same(slurp(f"{mnt}/far3.bin"), slurp(f"{ref}/far3.bin") + b"and more")
    spit(f"{mnt}/far4.bin", b"another")
    same(slurp(f"{mnt}/far4.bin"), b"another")
    fd = os.open(f"{mnt}/excl", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    refused(errno.EBADF, os.read, fd, 1)
    same(stat.S_IMODE(os.fstat(fd).st_mode), 0o640)
    os.close(fd)
    same(os.stat(f"{mnt}/excl").st_size, 0)
    same(stat.S_IMODE(os.stat(f"{mnt}/excl").st_mode), 0o640)


@check
def two_writers(mnt, ref):
    path = f"{mnt}/log.txt"
    spit(path, b"")

    def lines(who):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        for n in range(1000):
            os.write(fd, f"{who} {n}\n".encode())
        os.close(fd)

    for pid in [child(lambda: lines("a")), child(lambda: lines("b"))]:
        wait(pid)
    found = slurp(path).decode().splitlines()
    same(len(found), 2000, "lines")
    for who in "ab":
        same([l for l in found if l[0] == who], [f"{who} {n}" for n in range(1000)], who)


def renameat2(old, new, flags):
    libc = ctypes.CDLL(None, use_errno=True)
    at = -100
    if libc.renameat2(at, os.fsencode(old), at, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


@check
def renaming(mnt, ref):
    held = slurp(f"{ref}/held.bin")
    remote = slurp(f"{ref}/remote.bin")
    at = lambda name: f"{mnt}/{name}"
    # A file of the server's that was never read, and back.
    os.rename(at("remote.bin"), at("moved.bin"))
    refused(errno.ENOENT, os.stat, at("remote.bin"))
    same(os.stat(at("moved.bin")).st_size, len(remote))
    same(slurp(at("moved.bin")), remote, "moved before it was read")
    os.rename(at("moved.bin"), at("remote.bin"))
    same(slurp(at("remote.bin")), remote)
    # Onto itself, over another, over an open one.
    os.rename(at("held.bin"), at("held.bin"))
    same(slurp(at("held.bin")), held)
    spit(at("one"), b"one")
    spit(at("two"), b"two")
    reader = os.open(at("two"), os.O_RDONLY)
    inode = os.stat(at("one")).st_ino
    os.rename(at("one"), at("two"))
    same(slurp(at("two")), b"one")
    same(os.stat(at("two")).st_ino, inode, "inode")
    same(os.pread(reader, 9, 0), b"two", "the open one stays")
    same(os.fstat(reader).st_nlink, 0)
    os.close(reader)
    refused(errno.ENOENT, os.stat, at("one"))
    spit(at("one"), b"1")
    os.rename(at("one"), at("far1.bin"))
    same(slurp(at("far1.bin")), b"1", "over a file that is not here")
    os.rename(at("far2.bin"), at("far3.bin"))
    same(slurp(at("far3.bin")), slurp(f"{ref}/far2.bin"), "one that is not here over another")
    # While it is written, and over one that is written.
    fd = os.open(at("growing"), os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"begun ")
    os.rename(at("growing"), at("grown"))
    os.write(fd, b"and ended")
    same(slurp(at("grown")), b"begun and ended")
    os.close(fd)
    same(slurp(at("grown")), b"begun and ended")
    refused(errno.ENOENT, os.stat, at("growing"))
    fd = os.open(at("lost"), os.O_CREAT | os.O_RDWR)
    os.write(fd, b"nobody's")
    spit(at("winner"), b"winner")
    os.rename(at("winner"), at("lost"))
    same(os.pread(fd, 99, 0), b"nobody's")
    os.write(fd, b" at all")
    os.close(fd)
    same(slurp(at("lost")), b"winner")
    fd = os.open(at("held.bin"), os.O_RDWR)
    os.pwrite(fd, b"changed", 0)
    os.rename(at("held.bin"), at("held2.bin"))
    os.pwrite(fd, b"twice!!", 0)
    os.close(fd)
    same(slurp(at("held2.bin")), b"twice!!" + held[7:])
    # Flags.
    refused(errno.EEXIST, renameat2, at("lost"), at("grown"), NOREPLACE)
    renameat2(at("lost"), at("found"), NOREPLACE)
    same(slurp(at("found")), b"winner")
    renameat2(at("found"), at("grown"), EXCHANGE)
    same(slurp(at("grown")), b"winner")
    same(slurp(at("found")), b"begun and ended")
    refused(errno.ENOENT, renameat2, at("found"), at("nothing"), EXCHANGE)
    refused(errno.EINVAL, renameat2, at("found"), at("nothing"), WHITEOUT)
    refused(errno.EINVAL, renameat2, at("found"), at("grown"), NOREPLACE | EXCHANGE)
    refused(errno.ENOENT, os.rename, at("nothing"), at("x"))


@check
def renaming_directories(mnt, ref):
    at = lambda name: f"{mnt}/{name}"
    a = slurp(f"{ref}/tree/a.bin")
    deep = slurp(f"{ref}/tree/deep/er/c.bin")
    os.makedirs(at("d/e"))
    refused(errno.EINVAL, os.rename, at("d"), at("d/e/f"))
    refused(errno.EINVAL, os.rename, at("tree"), at("tree/deep/tree"))
    same(slurp(at("tree/a.bin")), a)
    spit(at("file"), b"file")
    refused(errno.ENOTDIR, os.rename, at("tree"), at("file"))
    refused(errno.EISDIR, os.rename, at("file"), at("d"))
    refused((errno.ENOTEMPTY, errno.EEXIST), os.rename, at("d/e"), at("tree"))
    refused((errno.ENOTEMPTY, errno.EEXIST), os.rename, at("d"), at("tree/deep"))
    refused((errno.ENOTEMPTY, errno.EEXIST), os.rename, at("d/e"), at("d"))
    # Over an empty one, with files in it that are not here; one of them open.
    fd = os.open(at("tree/a.bin"), os.O_RDONLY)
    os.rename(at("tree"), at("d/e"))
    refused(errno.ENOENT, os.stat, at("tree"))
    same(sorted(os.listdir(at("d/e"))), ["a.bin", "b.bin", "deep", "empty.bin"])
    same(os.pread(fd, 10, 0), a[:10])
    os.close(fd)
    same(slurp(at("d/e/a.bin")), a)
    same(slurp(at("d/e/deep/er/c.bin")), deep, "not here when its directory moved")
    spit(at("d/e/deep/mine"), b"mine")
    os.rename(at("d/e/deep"), at("shallow"))
    same(sorted(os.listdir(at("shallow"))), ["er", "mine"])
    same(slurp(at("shallow/mine")), b"mine")
    same(slurp(at("shallow/er/c.bin")), deep)
    # While something in it is written.
    fd = os.open(at("shallow/open"), os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"one ")
    os.rename(at("shallow"), at("final"))
    os.write(fd, b"two")
    os.close(fd)
    same(slurp(at("final/open")), b"one two")
    # The working directory of a process moves with it.
    os.chdir(at("final"))
    os.rename(at("final"), at("tree"))
    same(slurp("open"), b"one two")
    spit("here", b"here")
    same(slurp(at("tree/here")), b"here")
    os.chdir("/")
    # What was removed makes room for the same name again.
    shutil.rmtree(at("tree"))
    os.mkdir(at("tree"))
    same(os.listdir(at("tree")), [])
    spit(at("tree/a.bin"), b"new")
    same(slurp(at("tree/a.bin")), b"new")


@check
def removing(mnt, ref):
    at = lambda name: f"{mnt}/{name}"
    for path, data in files(mnt, ref):
        fd = os.open(path, os.O_RDWR)
        os.unlink(path)
        refused(errno.ENOENT, os.stat, path)
        same(os.pread(fd, len(data) + 1, 0), data, "unlinked and open")
        same(os.fstat(fd).st_nlink, 0)
        same(os.fstat(fd).st_size, len(data))
        os.pwrite(fd, b"still", 3)
        same(os.pread(fd, 10, 0), data[:3] + b"still" + data[8:10])
        os.ftruncate(fd, 4)
        same(os.fstat(fd).st_size, 4)
        os.fchmod(fd, 0o611)
        same(stat.S_IMODE(os.fstat(fd).st_mode), 0o611)
        os.fsync(fd)
        os.close(fd)
        refused(errno.ENOENT, os.stat, path)
        spit(path, b"reborn")
        same(slurp(path), b"reborn")
        os.unlink(path)
    fd = os.open(at("far1.bin"), os.O_RDONLY)
    os.unlink(at("far1.bin"))
    same(os.pread(fd, 1 << 20, 0), slurp(f"{ref}/far1.bin"), "read only after it was unlinked")
    os.close(fd)
    fd = os.open(at("unseen"), os.O_CREAT | os.O_RDWR)
    os.write(fd, b"temporary")
    os.unlink(at("unseen"))
    same(os.pread(fd, 99, 0), b"temporary")
    os.close(fd)
    refused(errno.ENOENT, os.unlink, at("unseen"))
    refused(errno.EISDIR, os.unlink, at("tree"))
    refused(errno.ENOTDIR, os.rmdir, at("far2.bin"))
    refused(errno.ENOTEMPTY, os.rmdir, at("tree"))
    refused(errno.ENOTEMPTY, os.rmdir, at("tree/deep"))
    os.mkdir(at("tree/made"))
    refused(errno.EEXIST, os.mkdir, at("tree/made"))
    refused(errno.EEXIST, os.mkdir, at("tree"))
    refused(errno.ENOENT, os.mkdir, at("no/where"))
    os.rmdir(at("tree/made"))
    refused(errno.ENOENT, os.rmdir, at("tree/made"))
    # A directory that is gone but open.
    os.mkdir(at("gone"))
    fd = os.open(at("gone"), os.O_RDONLY)
    os.rmdir(at("gone"))
    refused((errno.ENOENT, errno.ESTALE), os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)
    subprocess.run(["rm", "-rf", at("tree")], check=True)
    refused(errno.ENOENT, os.stat, at("tree"))
    assert "tree" not in os.listdir(mnt)


@check
def attributes(mnt, ref):
    at = lambda name: f"{mnt}/{name}"
    stamp = 1_234_567_890_123_456_789
    for path, data in files(mnt, ref):
        os.utime(path, ns=(stamp, stamp + 7))
        same(os.stat(path).st_mtime_ns, stamp + 7, path)
        same(slurp(path), data)
        same(os.stat(path).st_mtime_ns, stamp + 7, "after reading")
        os.chmod(path, 0o604)
        same(stat.S_IMODE(os.stat(path).st_mode), 0o604)
        same(os.stat(path).st_mtime_ns, stamp + 7, "after chmod")
        before = time.time_ns()
        os.utime(path)
        assert abs(os.stat(path).st_mtime_ns - before) < 5_000_000_000
        # Of a file that is being written: the time that was asked for is the one that stays.
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, b"new")
        os.utime(fd, ns=(stamp, stamp + 9))
        os.fchmod(fd, 0o640)
        if os.geteuid() == 0:
            os.fchown(fd, 56, 78)
        same(os.fstat(fd).st_mtime_ns, stamp + 9)
        os.close(fd)
        same(os.stat(path).st_mtime_ns, stamp + 9, "after the close")
        same(stat.S_IMODE(os.stat(path).st_mode), 0o640)
        if os.geteuid() == 0:
            same((os.stat(path).st_uid, os.stat(path).st_gid), (56, 78))
            os.chown(path, 12, 34)
            same((os.stat(path).st_uid, os.stat(path).st_gid), (12, 34))
            os.chown(path, -1, 35)
            same((os.stat(path).st_uid, os.stat(path).st_gid), (12, 35))
        os.utime(path, ns=(0, -1_500_000_000))
        same(os.stat(path).st_mtime_ns, -1_500_000_000, "before 1970")
    if os.geteuid() == 0:
        # One that is not here, one that is written anew, one that is new, and a link: all belong to whom they
        # were given to, in the plain folder as well.
        os.chown(at("far2.bin"), 21, 43)
        same(slurp(at("far2.bin")), slurp(f"{ref}/far2.bin"))
        spit(at("given"), b"first")
        os.chown(at("given"), 21, 43)
        spit(at("given"), b"second")
        same((os.stat(at("given")).st_uid, os.stat(at("given")).st_gid), (21, 43))
        os.symlink("given", at("link"))
        os.chown(at("link"), 21, 43, follow_symlinks=False)
    same(os.stat(at("far1.bin")).st_mtime_ns, os.stat(f"{ref}/far1.bin").st_mtime_ns, "listed")
    same(slurp(at("far1.bin")), slurp(f"{ref}/far1.bin"))
    same(os.stat(at("far1.bin")).st_mtime_ns, os.stat(f"{ref}/far1.bin").st_mtime_ns, "fetched")
    before = os.stat(at("tree")).st_mtime_ns
    spit(at("tree/one more"), b"")
    assert os.stat(at("tree")).st_mtime_ns > before, "a directory's time says that it changed"
    # `cp -a` sets those of the top last.
    os.utime(mnt, ns=(stamp, stamp))
    same(os.stat(mnt).st_mtime_ns, stamp)
    os.chown(mnt, os.getuid(), os.getgid())
    os.utime(at("tree"), ns=(stamp, stamp))
    same(os.stat(at("tree")).st_mtime_ns, stamp)
    os.chmod(at("tree"), 0o750)
    same(stat.S_IMODE(os.stat(at("tree")).st_mode), 0o750)
    old = os.umask(0o027)
    spit(at("masked"), b"")
    os.mkdir(at("masked.d"))
    os.umask(old)
    same(stat.S_IMODE(os.stat(at("masked")).st_mode), 0o640)
    same(stat.S_IMODE(os.stat(at("masked.d")).st_mode), 0o750)
    # The mode and the time of writing an existing file.
    spit(at("script"), b"#!/bin/sh\n")
    os.chmod(at("script"), 0o755)
    spit(at("script"), b"#!/bin/sh\necho works\n")
    same(stat.S_IMODE(os.stat(at("script")).st_mode), 0o755, "kept by O_TRUNC")
    same(subprocess.run([at("script")], capture_output=True).stdout, b"works\n")
    space = os.statvfs(mnt)
    assert space.f_blocks >= space.f_bfree > 0 and space.f_namemax == 255
    assert os.access(at("script"), os.X_OK)


@check
def links(mnt, ref):
    at = lambda name: f"{mnt}/{name}"
    os.symlink("held.bin", at("link"))
    same(os.readlink(at("link")), "held.bin")
    same(slurp(at("link")), slurp(f"{ref}/held.bin"))
    assert stat.S_ISLNK(os.lstat(at("link")).st_mode)
    same(os.lstat(at("link")).st_size, len("held.bin"))
    refused(errno.EEXIST, os.symlink, "x", at("link"))
    os.symlink("loop", at("loop"))
    refused(errno.ELOOP, os.open, at("loop"), os.O_RDONLY)
    os.symlink("/nowhere/at/all", at("dangling"))
    refused(errno.ENOENT, os.open, at("dangling"), os.O_RDONLY)
    os.rename(at("link"), at("tree/link"))
    same(os.readlink(at("tree/link")), "held.bin")
    refused(errno.ENOENT, os.open, at("tree/link"), os.O_RDONLY)
    os.symlink("tree/deep", at("to a directory"))
    same(slurp(at("to a directory/er/c.bin")), slurp(f"{ref}/tree/deep/er/c.bin"))
    os.unlink(at("to a directory"))
    os.utime(at("dangling"), ns=(1, 5), follow_symlinks=False)
    same(os.lstat(at("dangling")).st_mtime_ns, 5)
    os.unlink(at("dangling"))
    refused(errno.EPERM, os.link, at("held.bin"), at("second name"))
    refused(errno.EPERM, os.mkfifo, at("pipe"))
    if os.geteuid() == 0:
        refused(errno.EPERM, os.mknod, at("device"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(at("plain"), stat.S_IFREG | 0o644)
    same(slurp(at("plain")), b"")
    refused((errno.EPERM, errno.EOPNOTSUPP), lambda: os.close(os.open(mnt, os.O_TMPFILE | os.O_RDWR)))


@check
def extended(mnt, ref):
    for path, data in files(mnt, ref):
        same(slurp(path), data)
        # The bytes are here before the file has its name in the folder.
        deadline = time.monotonic() + 20
        while os.getxattr(path, "user.larder.state") not in (b"clean", b"dirty", b"local"):
            assert time.monotonic() < deadline, os.getxattr(path, "user.larder.state")
        os.setxattr(path, "user.colour", b"green")
        same(os.getxattr(path, "user.colour"), b"green")
        assert "user.colour" in os.listxattr(path)
        refused(errno.EEXIST, os.setxattr, path, "user.colour", b"red", os.XATTR_CREATE)
        os.setxattr(path, "user.colour", b"red", os.XATTR_REPLACE)
        refused(errno.ENODATA, os.setxattr, path, "user.other", b"x", os.XATTR_REPLACE)
        os.setxattr(path, "user.empty", b"")
        same(os.getxattr(path, "user.empty"), b"")
        os.setxattr(path, "user.binary", bytes(range(256)))
        same(os.getxattr(path, "user.binary"), bytes(range(256)))
        os.removexattr(path, "user.colour")
        refused(errno.ENODATA, os.getxattr, path, "user.colour")
        refused(errno.ENODATA, os.removexattr, path, "user.colour")
        same(slurp(path), data, "an attribute changes no bytes")
        assert "user.larder.state" not in os.listxattr(path), "it would travel with copies"
        refused(errno.EPERM, os.setxattr, path, "user.larder.state", b"x")
        refused(errno.ENODATA, os.getxattr, path, "user.larder.nonsense")
    # Of a file that is being written.
    fd = os.open(f"{mnt}/written", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"some")
    os.setxattr(fd, "user.early", b"yes")
    same(os.getxattr(fd, "user.early"), b"yes")
    assert "user.early" in os.listxattr(fd)
    os.setxattr(fd, "user.gone", b"yes")
    os.removexattr(fd, "user.gone")
    os.write(fd, b"thing")
    os.close(fd)
    same(os.getxattr(f"{mnt}/written", "user.early"), b"yes")
    refused(errno.ENODATA, os.getxattr, f"{mnt}/written", "user.gone")
    same(slurp(f"{mnt}/written"), b"something")
    # A writer may come while somebody reads what was not here when that one opened it.
    with open(f"{mnt}/far2.bin", "rb") as reader:
        data = reader.read()
        fd = os.open(f"{mnt}/far2.bin", os.O_RDWR)
        os.pwrite(fd, data[:1], 0)
        os.close(fd)
        same(reader.read(), b"")
    # Between the close and the file's way to its name, too.
    for n in range(500):
        path = f"{mnt}/again{n % 10}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.setxattr(fd, "user.mine", b"kept")
        os.close(fd)
        same(os.listxattr(path), ["user.mine"], f"round {n}")
    # Of one that has no name any more.
    for how in (os.O_RDONLY, os.O_RDWR):
        spit(f"{mnt}/nameless", b"some")
        fd = os.open(f"{mnt}/nameless", how)
        os.setxattr(fd, "user.mine", b"kept")
        os.fchmod(fd, 0o640)
        os.unlink(f"{mnt}/nameless")
        same(stat.S_IMODE(os.fstat(fd).st_mode), 0o640)
        same(os.getxattr(fd, "user.mine"), b"kept")
        os.setxattr(fd, "user.late", b"yes")
        same(sorted(os.listxattr(fd)), ["user.late", "user.mine"])
        os.removexattr(fd, "user.mine")
        refused(errno.ENODATA, os.getxattr, fd, "user.mine")
        refused(errno.ENODATA, os.getxattr, fd, "user.larder.state")
        os.close(fd)
    os.mkdir(f"{mnt}/directory")
    os.setxattr(f"{mnt}/directory", "user.colour", b"blue")
    same(os.getxattr(f"{mnt}/directory", "user.colour"), b"blue")
    refused(errno.ENODATA, os.getxattr, f"{mnt}/far1.bin", "user.colour")
    same(os.getxattr(f"{mnt}/far1.bin", "user.larder.state"), b"remote")
    assert os.getxattr(f"{mnt}/far1.bin", "user.larder.remote").startswith(b"http://")
    assert os.getxattr(f"{mnt}/far1.bin", "user.larder.version")
    same(os.getxattr(f"{mnt}/far1.bin", "user.larder.pinned"), b"0")


@check
def locks(mnt, ref):
    for path, _ in files(mnt, ref):
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

            def blocked():
                with open(path, "r+b") as other:
                    refused(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    refused(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)

            elsewhere(blocked)
            fcntl.flock(file, fcntl.LOCK_UN)
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)

            def partly():
                with open(path, "r+b") as other:
                    refused((errno.EAGAIN, errno.EACCES), fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 14)
                    fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 15)

            elsewhere(partly)
            fcntl.lockf(file, fcntl.LOCK_UN, 10, 5)
            elsewhere(lambda: fcntl.lockf(open(path, "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB))
        # A lock that is waited for.
        ready, taken = os.pipe()
        done, go = os.pipe()

        def holds():
            with open(path, "r+b") as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                os.write(taken, b"x")
                os.read(done, 1)

        pid = child(holds)
        os.read(ready, 1)
        with open(path, "r+b") as file:
            refused(errno.EAGAIN, fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(go, b"x")
            fcntl.flock(file, fcntl.LOCK_EX)
        wait(pid)


@check
def executing(mnt, ref):
    """A program is started while files are open for writing: exec closes them."""
    files = [open(f"{mnt}/open{n}", "wb") for n in range(6)]
    for file in files:
        file.write(b"begun")
        file.flush()
        same(subprocess.run(["/bin/true"], timeout=20).returncode, 0)
        same(subprocess.run(["/bin/true"], timeout=20, close_fds=False).returncode, 0)
    for file in files:
        file.write(b" and ended")
        file.close()
        same(slurp(file.name), b"begun and ended")


@check
def mapped(mnt, ref):
    for path, data in files(mnt, ref):
        fd = os.open(path, os.O_RDONLY)
        view = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(fd)
        same(view[:], data, "mapped, after the close")
        view.close()
        fd = os.open(path, os.O_RDWR)
        view = mmap.mmap(fd, len(data), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        view[100:107] = b"through"
        view.flush()
        data = data[:100] + b"through" + data[107:]
        same(os.pread(fd, 200, 0), data[:200], "after msync")
        elsewhere(lambda: same(slurp(path), data, "another process"))
        os.close(fd)
        view[200:205] = b"later"
        data = data[:200] + b"later" + data[205:]
        view.flush()
        elsewhere(lambda: same(slurp(path), data, "another process, after the close"))
        view[300:304] = b"last"
        data = data[:300] + b"last" + data[304:]
        view.close()
        same(slurp(path), data, "after munmap")
    # A new file that is only ever written through a mapping, and closed before.
    fd = os.open(f"{mnt}/map.new", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 100_000)
    view = mmap.mmap(fd, 100_000)
    os.close(fd)
    view[:] = b"m" * 100_000
    view.close()
    same(slurp(f"{mnt}/map.new"), b"m" * 100_000)
    # Private: seen by nobody.
    with open(f"{mnt}/held.bin", "r+b") as file:
        view = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)
        view[0:3] = b"___"
        view.close()
    assert slurp(f"{mnt}/held.bin")[:3] != b"___"
    # Two processes and one mapping.
    spit(f"{mnt}/shared", bytes(4096))
    fd = os.open(f"{mnt}/shared", os.O_RDWR)
    view = mmap.mmap(fd, 4096)
    elsewhere(lambda: view.__setitem__(slice(0, 5), b"child"))
    same(view[:5], b"child")
    view.close()
    os.close(fd)
    same(slurp(f"{mnt}/shared")[:6], b"child\0")
    with open(f"{mnt}/far1.bin", "rb") as file:
        view = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        same(view[:], slurp(f"{ref}/far1.bin"), "mapped while it comes")
        view.close()


@check
def direct(mnt, ref):
    for path, data in files(mnt, ref):
        block = 4096
        buffer = mmap.mmap(-1, 4 * block)
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        n = os.preadv(fd, [buffer], block)
        same(buffer[:n], data[block : block + n], "read")
        buffer[:block] = b"d" * block
        same(os.pwritev(fd, [memoryview(buffer)[:block]], 2 * block), block)
        data = data[: 2 * block] + b"d" * block + data[3 * block :]
        os.close(fd)
        same(slurp(path), data, "written")
    fd = os.open(f"{mnt}/direct.new", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    os.pwritev(fd, [buffer], 0)
    os.close(fd)
    same(os.stat(f"{mnt}/direct.new").st_size, 4 * block)


@check
def allocating(mnt, ref):
    libc = ctypes.CDLL(None, use_errno=True)

    def fallocate(fd, mode, offset, length):
        if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    for path, data in files(mnt, ref):
        fd = os.open(path, os.O_RDWR)
        size = len(data)
        fallocate(fd, 0, size, 5000)
        same(os.fstat(fd).st_size, size + 5000)
        same(os.pread(fd, 6000, size), bytes(5000))
        fallocate(fd, 1, size + 5000, 100_000)
        same(os.fstat(fd).st_size, size + 5000, "kept")
        os.posix_fallocate(fd, 0, size)
        same(os.pread(fd, size, 0), data)
        refused(errno.EOPNOTSUPP, fallocate, fd, 3, 0, 4096)
        os.close(fd)
        same(os.stat(path).st_size, size + 5000)
        same(slurp(path), data + bytes(5000))


@check
def names(mnt, ref):
    root = os.fsencode(mnt)
    odd = [b"new\nline", b" ", b"  two  ", b"not utf-8 \xff\xfe", b"\x01\x7f", "größe 尺寸 🎉".encode(),
           b"quote'\"`$(x)", b"back\\slash", b"%41%2F", b"-rf", b"...", b"..x", b"#", b"?q=1&b", b"n" * 255]
    for name in odd:
        path = os.path.join(root, name)
        spit(path, name)
        same(slurp(path), name, name)
    os.mkdir(os.path.join(root, b"dir \xff\n"))
    spit(os.path.join(root, b"dir \xff\n/in\xfe"), b"in")
    listed = os.listdir(root)
    for name in odd:
        assert name in listed, name
    same(slurp(os.path.join(root, b"server \xff\n\xfe")), b"odd", "an odd name of the server's")
    for call in (lambda p: spit(p, b""), os.stat, os.mkdir, os.unlink, lambda p: os.symlink(b"x", p),
                 lambda p: os.rename(os.path.join(root, b" "), p)):
        refused(errno.ENAMETOOLONG, call, os.path.join(root, b"n" * 256))
    refused(errno.ENOENT, os.stat, f"{mnt}/.larder")
    refused((errno.EPERM, errno.EACCES), os.mkdir, f"{mnt}/.larder")
    refused((errno.EPERM, errno.EACCES), spit, f"{mnt}/.larder", b"x")
    assert b".larder" not in listed
    same(slurp(f"{mnt}/tree/empty.bin"), b"")
    spit(f"{mnt}/zero", b"")
    same(os.stat(f"{mnt}/zero").st_size, 0)


@check
def listing(mnt, ref):
    here = f"{mnt}/many"
    expected = [f"file_{n:05}" for n in range(5000)]
    same(sorted(os.listdir(here)), expected)
    # `rm -rf` removes what it was told while it goes on reading.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p
    for name in ("readdir", "rewinddir", "closedir", "telldir"):
        getattr(libc, name).argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

    def entry(stream):
        at = libc.readdir(stream)
        return at and os.fsdecode(ctypes.string_at(at + 19))

    stream = libc.opendir(os.fsencode(here))
    first = [entry(stream) for _ in range(1000)]
    mark = libc.telldir(stream)
    following = [entry(stream) for _ in range(10)]
    libc.seekdir(stream, mark)
    same([entry(stream) for _ in range(10)], following, "after seekdir")
    libc.rewinddir(stream)
    same([entry(stream) for _ in range(1000)], first, "after rewinddir")
    libc.rewinddir(stream)
    seen, removed = [], []
    while name := entry(stream):
        if name in (".", ".."):
            continue
        seen.append(name)
        if len(seen) % 3 == 0:
            os.unlink(f"{here}/{name}")
            removed.append(name)
    same(seen, expected, "each once, whatever is removed meanwhile")
    left = [name for name in expected if name not in set(removed)]
    libc.rewinddir(stream)
    again = []
    while name := entry(stream):
        again.append(name)
    same(sorted(again[2:]), left, "after rewinddir")
    libc.closedir(stream)
    same(sorted(os.listdir(here)), left)
    for name in left[:100]:
        spit(f"{here}/{name}.new", b"")
    same(len(os.listdir(here)), len(left) + 100)
    subprocess.run(["rm", "-rf", here], check=True)
    refused(errno.ENOENT, os.stat, here)


@check
def tools(mnt, ref):
    run = lambda *args, **more: subprocess.run(args, check=True, capture_output=True, **more).stdout
    copy = f"{ref}.copy"
    run("cp", "-a", f"{mnt}/.", copy)
    run("diff", "-r", ref, copy)
    for name in ("held.bin", "tree/deep/er/c.bin"):
        same(os.stat(f"{copy}/{name}").st_mtime_ns, os.stat(f"{ref}/{name}").st_mtime_ns)
    # In, and in again: nothing is left to do.
    rsync = ["rsync", "-a", "--stats", f"{ref}/", f"{mnt}/in/"]
    assert b"Number of regular files transferred: 0" not in run(*rsync)
    assert b"Number of regular files transferred: 0" in run(*rsync)
    run("diff", "-r", ref, f"{mnt}/in")
    same(run(*rsync[:2], "-c", *rsync[3:], "--itemize-changes"), b"")
    # Out, and out again.
    rsync = ["rsync", "-a", "--stats", f"{mnt}/in/", f"{ref}.out/"]
    run(*rsync)
    assert b"Number of regular files transferred: 0" in run(*rsync)
    run("cp", "-a", ref, f"{mnt}/copied")
    run("diff", "-r", ref, f"{mnt}/copied")
    same(os.stat(f"{mnt}/copied/held.bin").st_mtime_ns, os.stat(f"{ref}/held.bin").st_mtime_ns)
    run("tar", "-cf", f"{ref}.tar", "-C", ref, ".")
    os.mkdir(f"{mnt}/untarred")
    run("tar", "-xf", f"{ref}.tar", "-C", f"{mnt}/untarred")
    run("diff", "-r", ref, f"{mnt}/untarred")
    # What was just written can be packed: nothing changes while it is read.
    run("sh", "-c", f"tar -C '{mnt}' -cf - untarred | cat > '{ref}.tar'")
    packed = subprocess.run(["tar", "-C", mnt, "-cf", f"{ref}.tar", "untarred", "in"], capture_output=True)
    same((packed.returncode, packed.stderr), (0, b""), "tar")
    assert b"held.bin" in run("ls", "-l", f"{mnt}/copied")
    run("ls", "-lR", mnt)
    run("find", mnt, "-newer", f"{mnt}/held.bin", "-ls")
    repo = f"{mnt}/repo"
    os.mkdir(repo)
    git = lambda *args: run("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main",
                            "-c", "safe.directory=*", "-C", repo, *args, env={**os.environ, "HOME": ref})
    git("init", "-q")
    run("cp", "-r", f"{ref}/tree", repo)
    git("add", "-A")
    git("commit", "-qm", "one")
    same(git("status", "--porcelain"), b"")
    spit(f"{repo}/tree/a.bin", b"changed")
    same(git("status", "--porcelain"), b" M tree/a.bin\n")
    git("commit", "-qam", "two")
    git("checkout", "-q", "HEAD~1")
    same(slurp(f"{repo}/tree/a.bin"), slurp(f"{ref}/tree/a.bin"))
    git("checkout", "-q", "main")
    git("gc", "-q")
    git("fsck", "--strict")
    same(slurp(f"{repo}/tree/a.bin"), b"changed")


@check
def versions(mnt, ref):
    """Who has a file open keeps what was opened when another process replaces it."""
    for path, data in files(mnt, ref):
        fd = os.open(path, os.O_RDONLY)
        half = len(data) // 2
        same(os.read(fd, half), data[:half])
        elsewhere(lambda: spit(path, b"replaced with O_TRUNC"))
        same(os.pread(fd, len(data), half), data[half:], "the old version")
        same(os.fstat(fd).st_size, len(data))
        same(slurp(path), b"replaced with O_TRUNC")

        def by_rename():
            spit(path + ".tmp", b"replaced by a rename")
            os.rename(path + ".tmp", path)

        second = os.open(path, os.O_RDONLY)
        elsewhere(by_rename)
        same(os.pread(fd, len(data), 0), data, "the old version")
        same(os.pread(second, 99, 0), b"replaced with O_TRUNC", "the second version")
        same(slurp(path), b"replaced by a rename")
        os.close(fd)
        os.close(second)
        same(slurp(path), b"replaced by a rename")


@check
def read_only(mnt, ref):
    at = lambda name: f"{mnt}/{name}"
    same(slurp(at("remote.bin")), slurp(f"{ref}/remote.bin"))
    for call in (
        lambda: os.open(at("remote.bin"), os.O_RDWR),
        lambda: os.open(at("far1.bin"), os.O_WRONLY | os.O_TRUNC),
        lambda: spit(at("new"), b""),
        lambda: os.mkdir(at("d")),
        lambda: os.unlink(at("remote.bin")),
        lambda: os.rmdir(at("tree")),
        lambda: os.rename(at("remote.bin"), at("x")),
        lambda: os.chmod(at("remote.bin"), 0o600),
        lambda: os.utime(at("remote.bin")),
        lambda: os.truncate(at("remote.bin"), 1),
        lambda: os.symlink("a", at("b")),
        lambda: os.setxattr(at("remote.bin"), "user.a", b"b"),
    ):
        refused(errno.EROFS, call)


@check
def ordinary(mnt, ref):
    """What an ordinary user needs."""
    assert os.geteuid() != 0
    for name in ("reading", "links", "writing"):
        CHECKS[name](mnt, ref)
    fd = os.open(f"{mnt}/secret", os.O_CREAT | os.O_WRONLY, 0o400)
    os.write(fd, b"mine")
    os.close(fd)
    same(os.stat(f"{mnt}/secret").st_uid, os.geteuid())
    same(slurp(f"{mnt}/secret"), b"mine")
    refused(errno.EACCES, os.open, f"{mnt}/secret", os.O_WRONLY)
    os.chmod(f"{mnt}/secret", 0o600)
    spit(f"{mnt}/secret", b"changed")
    refused(errno.EPERM, os.chown, f"{mnt}/secret", 0, 0)
    # Copied with its mode, as `cp` does it: made without the right to write, written all the same.
    os.mkdir(f"{mnt}/shut", 0o500)
    refused(errno.EACCES, spit, f"{mnt}/shut/x", b"")
    os.rmdir(f"{mnt}/shut")
    subprocess.run(["cp", "-a", f"{ref}/tree", f"{mnt}/copied"], check=True)
    subprocess.run(["diff", "-r", f"{ref}/tree", f"{mnt}/copied"], check=True)


def main():
    name, mnt, ref = sys.argv[1:4]
    # Whatever hangs ends with a word on where.
    faulthandler.dump_traceback_later(60, exit=True)
    CHECKS[name](mnt, ref)


main()
