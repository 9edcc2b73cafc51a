"""Give a knowledge base, or an uploaded document, another name."""

from __future__ import annotations

from pathlib import Path

from kb.errors import KnowledgeBaseError
from kb.knowledge import KnowledgeBase, check_name
from kb.listing import stat_text
from kb.lock import write_lock


def rename(kb: KnowledgeBase, new: str, *, wait: float = 10.0) -> KnowledgeBase:
    """The knowledge base under its new name; `kb` is closed. Uploads go with it.

    Raises KnowledgeBaseError if the name is taken or cannot be one, KnowledgeBaseBusy while it is being written.
    """
    target = kb.folder.with_name(check_name(new))
    if target.exists():
        raise KnowledgeBaseError(
            f"there is a knowledge base {new!r} already. Choose another name.",
            zh=f"已经有知识库“{new}”。请换一个名字。",
        )
    with write_lock(kb.folder / "lock", wait=wait, purpose="rename"):
        own = kb.source == kb.uploads.resolve()
        kb.close()
        kb.folder.rename(target)
        renamed = KnowledgeBase(target)
        if own:
            renamed.store.set_meta("folder", str(renamed.uploads.resolve()))
    return renamed


def rename_upload(kb: KnowledgeBase, old: str, new: str, *, wait: float = 10.0) -> None:
    """Another name for an uploaded document and its file; nothing is read again.

    Raises KnowledgeBaseError if it is no upload, the type would change, or the name is taken or cannot be one.
    """
    source, target = kb.upload_path(old), kb.upload_path(new)
    if kb.source != kb.uploads.resolve() or kb.store.document(old) is None or not source.is_file():
        raise KnowledgeBaseError(
            f"{old!r} is not an uploaded document: rename the file in its folder and index again.",
            zh=f"“{old}”不是上传的文档：请在它的文件夹里改名，再重新索引。",
        )
    if Path(old).suffix.lower() != Path(new).suffix.lower():
        raise KnowledgeBaseError(
            f"{new!r} must end like {old!r}: the ending says what kind of file it is.",
            zh=f"“{new}”的后缀要与“{old}”相同：后缀表示文件的种类。",
        )
    with write_lock(kb.folder / "lock", wait=wait, purpose="rename document"):
        if target.exists() or kb.store.document(new) is not None:
            raise KnowledgeBaseError(
                f"there is a document {new!r} already. Choose another name.",
                zh=f"已经有文档“{new}”。请换一个名字。",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        kb.store.rename_document(old, new, stat=stat_text(target.stat()))
        kb.refresh_caches()
