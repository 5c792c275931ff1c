"""A SQLite database on a network file system is refused unless the operator insists."""

import pytest
import typer

from trainvitals_server import cli
from trainvitals_server.settings import Settings
from trainvitals_server.store import file_systems
from trainvitals_server.store.file_systems import network_type, refuse_network_file_system
from trainvitals_server.store.migrate import StoreUnusable


@pytest.fixture
def mounts(tmp_path):
    """Return a function that writes a table of mounts: {place: type}."""

    def table(**types: str):
        path = tmp_path / "mountinfo"
        lines = [
            f"{i} 1 0:{i} / {place} rw,relatime shared:{i} - {kind} server:/x rw\n"
            for i, (place, kind) in enumerate({"/": "ext4", **types}.items())
        ]
        path.write_text("".join(lines))
        return path

    return table


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "lustre", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_recognised(mounts, tmp_path, kind):
    table = mounts(**{str(tmp_path): kind})
    assert network_type(tmp_path / "deep" / "x.db", table) == kind.removeprefix("fuse.")
    assert network_type(tmp_path.parent / "x.db", table) == ""


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse.ext4"])
def test_a_local_one_is_not(mounts, tmp_path, kind):
    assert network_type(tmp_path / "x.db", mounts(**{str(tmp_path): kind})) == ""


def test_the_innermost_mount_counts(mounts, tmp_path):
    table = mounts(**{str(tmp_path): "nfs4", str(tmp_path / "scratch"): "xfs"})
    assert network_type(tmp_path / "scratch" / "x.db", table) == ""
    assert network_type(tmp_path / "scratch2" / "x.db", table) == "nfs4"


def test_a_place_with_a_space_and_a_link_to_it_are_recognised(mounts, tmp_path):
    share = tmp_path / "my share"
    share.mkdir()
    (tmp_path / "link").symlink_to(share)
    table = mounts(**{str(share).replace(" ", r"\040"): "nfs4"})
    assert network_type(tmp_path / "link" / "x.db", table) == "nfs4"


def test_without_a_table_of_mounts_nothing_is_refused(tmp_path):
    assert network_type(tmp_path / "x.db", tmp_path / "none") == ""


def test_the_message_says_what_to_do(mounts, tmp_path):
    with pytest.raises(StoreUnusable, match=r"network file system \(nfs4\).*TRAINVITALS_HOME"):
        refuse_network_file_system(tmp_path / "x.db", mounts(**{str(tmp_path): "nfs4"}))


def test_a_collector_does_not_start_there_unless_it_is_forced(
    mounts, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(file_systems, "MOUNTS", mounts(**{str(tmp_path): "nfs4"}))
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(typer.Exit), cli._alone(settings):
        pass
    assert "network file system (nfs4)" in capsys.readouterr().err
    assert not (tmp_path / "home" / "trainvitals.db").exists()
    with cli._alone(settings.model_copy(update={"network_file_system": True})):
        assert (tmp_path / "home" / "trainvitals.db").exists()
