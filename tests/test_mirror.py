"""Files from a copy of the publishers' servers: a folder or a server, in their layout or all in one place."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from archives import zipped
from fetching import DATA, NAME, OTHER, Call, checksum, file, whole
from file_server import Server, Serves, status

from resnext_convert.converter.errors import FetchError
from resnext_convert.converter.mirror import places
from resnext_convert.converter.releases import Location

URL = "http://data.invalid/models/imagenet/net-0000.params"
LAYOUTS = ["data.invalid/models/imagenet/net-0000.params", "models/imagenet/net-0000.params", "net-0000.params"]
PAGE = Location(url="https://drive.invalid/open?id=1", page=True)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, data: bytes = DATA) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Folders


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("as_text", [False, True])
def test_a_file_of_a_folder_is_used_in_place(call: Call, mirror: Path, layout: str, as_text: bool) -> None:
    path = put(mirror, layout)
    assert call(file(URL), mirror=str(mirror) if as_text else mirror) == {"params": path}
    assert call.said == []
    assert not call.cache.exists()


def test_the_publishers_layout_comes_first(call: Call, mirror: Path) -> None:
    paths = [put(mirror, layout) for layout in LAYOUTS]
    for path in paths:
        assert call(file(URL), mirror=mirror)["params"] == path
        path.unlink()


def test_the_file_s_own_name_comes_last(call: Call, mirror: Path) -> None:
    wanted = file("http://data.invalid/net/model-0000.params")
    own = put(mirror, NAME)
    assert call(wanted, mirror=mirror)["params"] == own
    published = put(mirror, "model-0000.params")
    assert call(wanted, mirror=mirror)["params"] == published


def test_what_was_fetched_by_hand_from_a_page(call: Call, mirror: Path) -> None:
    path = put(mirror, NAME)
    assert call(file(PAGE), mirror=mirror)["params"] == path


def test_the_environment_names_the_mirror(call: Call, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(mirror, NAME)
    monkeypatch.setenv("RESNEXT_CONVERT_FROM", str(mirror))
    assert call(file(URL))["params"] == path


def test_a_mirror_comes_before_the_cache(server: Server, call: Call, mirror: Path) -> None:
    call(file(server.gives(f"/{NAME}", Serves(DATA))))
    path = put(mirror, NAME)
    assert call(file(URL), mirror=mirror)["params"] == path


def test_another_file_in_the_mirror_is_said_and_not_used(server: Server, call: Call, mirror: Path) -> None:
    path = put(mirror, NAME, OTHER)
    assert call(file(server.gives(f"/{NAME}", Serves(DATA))), mirror=mirror)["params"] == call.folder / NAME
    assert call.said[0].startswith(f"{path}: is not the file that was published (expected md5 ")
    (call.folder / NAME).unlink()
    error = call.refused(file(), mirror=mirror)
    assert error.file == str(path)
    assert error.found == checksum(OTHER).value


def test_a_page_in_the_mirror_is_not_used(call: Call, mirror: Path) -> None:
    put(mirror, NAME, b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    assert "a web page" in call.refused(file(PAGE, data=None), mirror=mirror).problem


def test_an_unverified_file_is_said_to_be_that(call: Call, mirror: Path) -> None:
    path = put(mirror, NAME)
    call(file(URL, data=None), mirror=mirror)
    assert call.said == [f"{path}: nothing was published to check {NAME} by: it is unverified"]


def test_a_mirror_that_lacks_the_file(server: Server, call: Call, mirror: Path) -> None:
    wanted = file(server.gives(f"/{NAME}", Serves(DATA), status(404)))
    assert call(wanted, mirror=mirror)["params"] == call.folder / NAME
    assert call.said == [f"{mirror}: has no {NAME}, in any folder where it might be"]
    (call.folder / NAME).unlink()
    error = call.refused(wanted, mirror=mirror)
    assert f"{mirror}: has no {NAME}" in whole(error)
    assert "404" in whole(error)


def test_a_mirror_that_is_not_there(call: Call, mirror: Path) -> None:
    with pytest.raises(FetchError, match="no such folder") as refusal:
        call(file(URL), mirror=mirror / "nowhere")
    assert refusal.value.hint == "--from names a folder or a web address"


def test_a_file_that_may_not_be_read(call: Call, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(mirror, NAME)

    def denied(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read: Permission denied" in whole(call.refused(file(URL), mirror=mirror, offline=True))


# Archives


@pytest.mark.parametrize(("kind", "archive"), [("zip", zipped((NAME, DATA))), ("gz", gzip.compress(DATA))])
def test_an_archive_of_a_folder_is_unpacked_into_the_cache(call: Call, mirror: Path, kind: str, archive: bytes) -> None:
    path = put(mirror, f"models/net.{kind}", archive)
    wanted = file(f"http://data.invalid/models/net.{kind}", archive=kind)
    for _ in range(2):
        assert call(wanted, mirror=mirror, offline=True) == {"params": call.folder / NAME}
        assert call.kept() == {NAME: DATA}
    assert path.read_bytes() == archive


def test_the_unpacked_file_will_do(call: Call, mirror: Path) -> None:
    path = put(mirror, NAME)
    assert call(file("http://data.invalid/models/net.zip", archive="zip"), mirror=mirror)["params"] == path


def test_a_damaged_archive_of_a_folder_stays_there(call: Call, mirror: Path) -> None:
    path = put(mirror, "net.zip", zipped((NAME, DATA))[:-30])
    error = call.refused(file("http://data.invalid/net.zip", archive="zip"), mirror=mirror, offline=True)
    assert f"{path}: the archive is damaged" in whole(error)
    assert path.is_file()
    assert call.kept() == {}


def test_an_archive_without_published_checksums_is_unverified(call: Call, mirror: Path) -> None:
    path = put(mirror, "net.zip", zipped((NAME, DATA)))
    call(file("http://data.invalid/net.zip", archive="zip", data=None), mirror=mirror)
    assert call.said == [f"{path}: nothing was published to check {NAME} by: it is unverified"]
    archive = zipped((NAME, DATA))
    verified = file("http://data.invalid/net.zip", archive="zip", checksums=(checksum(archive, archive=True),))
    (call.folder / NAME).unlink()
    call(verified, mirror=mirror)
    assert call.said == []


# Servers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_of_a_server(server: Server, call: Call, layout: str, slash: str) -> None:
    server.gives(f"/copy/{layout}", Serves(DATA))
    call(file(URL), mirror=f"{server.url}/copy{slash}")
    assert call.kept() == {NAME: DATA}
    assert call.said == []
    tried = LAYOUTS[: LAYOUTS.index(layout) + 1]
    assert [request.path for request in server.requests] == [f"/copy/{one}" for one in tried]


def test_an_archive_of_a_server_comes_before_the_unpacked_file(server: Server, call: Call) -> None:
    wanted = file("http://data.invalid/models/net.zip", archive="zip")
    server.gives(f"/{NAME}", Serves(DATA))
    call(wanted, mirror=server.url)
    assert call.kept() == {NAME: DATA}
    paths = ["/data.invalid/models/net.zip", "/models/net.zip", "/net.zip", f"/{NAME}"]
    assert [request.path for request in server.requests] == paths


def test_a_mirror_that_does_not_answer_is_asked_once(call: Call) -> None:
    error = call.refused(file(), mirror="http://nobody.invalid/copy")
    assert "nobody.invalid" in whole(error)
    assert "the connection failed" in whole(error)
    call.refused(file(URL), mirror="http://data.invalid/copy")
    assert len(call.said) == 2  # the mirror, and (not tried again) the location
    assert "is not tried again" in call.said[1]


# No way out


@pytest.mark.parametrize(
    "url",
    [
        "http://data.invalid/../../secret",
        "http://data.invalid/a/%2e%2e/%2E%2E/secret",
        "http://data.invalid/..%2f..%2fsecret",
        "http://data.invalid/%2fetc%2fpasswd",
        "http://data.invalid/a\\..\\secret",
        "http://data.invalid/a%00b",
        "http://../secret",
        "http:///secret",
        "http://data.invalid",
    ],
)
def test_no_address_leads_out_of_the_mirror(tmp_path: Path, url: str) -> None:
    wanted = file(url)
    (tmp_path / "secret").write_bytes(b"secret")
    assert [place.where for place in places(wanted, tmp_path / "mirror")] == [tmp_path / "mirror" / NAME]
    assert [place.where for place in places(wanted, "http://m/x")] == [f"http://m/x/{NAME}"]


def test_names_are_decoded_for_a_folder_and_encoded_for_a_server(tmp_path: Path) -> None:
    wanted = file("http://data.invalid/a%20b/net%23.params?download=1")
    assert places(wanted, tmp_path)[0].where == tmp_path / "data.invalid" / "a b" / "net#.params"
    assert places(wanted, "http://m")[0].where == "http://m/data.invalid/a%20b/net%23.params"
