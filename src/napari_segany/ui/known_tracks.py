"""The tracks of a stack's objects, worked out again only where they changed: lists and timelines ask often."""

from __future__ import annotations

from napari_segany.session.records import ObjectTrack
from napari_segany.session.volume import VolumeSession


class KnownTracks:
    """What is known of every object of a session, as of now."""

    def __init__(self, session: VolumeSession) -> None:
        self._session = session
        self._tracks: dict[int, ObjectTrack] = {}
        session.track_changed.connect(self._forget)
        session.prompts_changed.connect(self._forget_prompted)
        session.objects_changed.connect(self._forget_all)

    def __getitem__(self, object_id: int) -> ObjectTrack:
        if object_id not in self._tracks:
            self._tracks[object_id] = self._session.track(object_id)
        return self._tracks[object_id]

    def everything(self) -> list[ObjectTrack]:
        """Return the track of every object, in order."""
        return [self[object_id] for object_id in self._session.object_ids]

    def _forget(self, object_id: int) -> None:
        self._tracks.pop(object_id, None)

    def _forget_prompted(self, key: tuple[int, int]) -> None:
        self._forget(key[0])

    def _forget_all(self) -> None:
        self._tracks.clear()
