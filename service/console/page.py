"""The console's page: what is on it, and what happens when something is pressed.

Imports Gradio, so only `service.console.mount` imports this, once the service is ready. It asks the service as any
other caller would (`service.console.client`), and opens no file but clips that were uploaded to it.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from starlette.datastructures import Headers

from service.console import compare, learning, transcript, versions
from service.console.client import PASSED_ON, Caller, ServiceError
from service.console.mount import key_in_cookie
from service.state import Loaded
from speech.languages import LANGUAGES
from speech.tokens import UnknownLanguageError

AUTO = "auto"
CACHE_SECONDS = 3600
"""Uploads are deleted when they are this old, looked at as often, and when the service ends."""
STATE_SECONDS = 3600

LISTS_ANEW: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
"""How what is served is asked for when a tab is opened: who is production may have changed since. What is chosen comes
as the browser has it, for Gradio would refuse a version that it does not list any more."""

ALIASES = ("production", "candidate", "canary", "shadow")

CSS = """
.gradio-container{max-width:60rem!important;margin:auto!important;padding:.75rem!important}
.gradio-container,.gradio-container main{width:100%!important;box-sizing:border-box}
.gradio-container>main,.gradio-container .app{padding:0!important}
@media(max-width:480px){.gradio-container{padding:.5rem!important}.tab-container button[role=tab]{padding:0 .55rem}}
.corrections p{display:block}.corrections li,.reports>li{display:block}
h1{font-size:1.4rem;margin:.2rem 0}
.transcript ol,.transcript ul,.corrections,.reports{list-style:none;padding:0;margin:.5rem 0}
.transcript li{display:flex;flex-wrap:wrap;gap:.25rem .75rem;align-items:baseline;margin:.4rem 0}
.transcript audio{width:100%}
.from{font:inherit;font-size:.9rem;min-height:2.75rem;padding:0 .6rem;border:1px solid currentColor;border-radius:.4rem;
background:transparent;color:inherit;cursor:pointer;white-space:nowrap}
.from:focus-visible,.file:focus-visible,summary:focus-visible{outline:3px solid #2563eb;outline-offset:2px}
.said{flex:1 1 14rem;font-size:1.05rem;line-height:1.7;overflow-wrap:anywhere;margin:.2rem 0}
.facts,.key{font-size:.85rem;overflow-wrap:anywhere;opacity:.85;margin:.2rem 0}
.note{border-left:4px solid #b45309;padding-left:.5rem}
.w.unsure{text-decoration:underline dotted 2px;text-underline-offset:.25em;color:#92400e}
.w.doubtful{text-decoration:underline wavy 2px;text-underline-offset:.25em;color:#b91c1c}
.dark .w.unsure{color:#fbbf24}.dark .w.doubtful{color:#fca5a5}
.w[data-number]:focus::after,.transcript:has(.numbers :checked) .w[data-number]::after,
.compared:has(.numbers :checked) .w[data-number]::after{content:attr(data-number);display:inline-block;
margin-left:.2em;font-size:.75rem}
.numbers{display:inline-flex;align-items:center;gap:.5rem;min-height:2.75rem;font-size:.85rem;cursor:pointer}
.numbers:has(:focus-visible){outline:3px solid #2563eb;outline-offset:2px}.compared .numbers{grid-column:1/-1}
.flag{font-size:.8rem;border:1px solid currentColor;border-radius:.3rem;padding:0 .3rem}
.files a{display:inline-block;padding:.6rem .4rem;text-decoration:underline}
.compared{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(16rem,100%),1fr));gap:.75rem}
.compared article,.version,.corrections li,.reports>li{border:1px solid #8886;border-radius:.5rem;padding:.6rem;
margin:.5rem 0;overflow-wrap:anywhere}
.compared h3,.version h3{margin:.1rem 0;font-size:1rem;overflow-wrap:anywhere}
.badge{display:inline-block;border:1px solid currentColor;border-radius:1rem;padding:0 .5rem;font-size:.8rem}
.scroll{overflow-x:auto}.versions table{border-collapse:collapse;font-size:.9rem}
.versions caption{text-align:left;white-space:nowrap;font-size:.85rem}
.versions th,.versions td{border:1px solid #8886;padding:.2rem .5rem;text-align:left;white-space:nowrap}
.versions summary{min-height:2.5rem;cursor:pointer;padding:.5rem 0}
.curves img{max-width:100%;height:auto;background:#fff}
.corrections del{text-decoration:line-through;opacity:.75}.corrections ins{text-decoration:none;font-weight:600}
"""

HEAD = """<script>
document.addEventListener("click", (event) => {
  const from = event.target.closest("[data-start]");
  if (!from) return;
  const player = from.closest(".transcript").querySelector("audio");
  if (player) { player.currentTime = Number(from.dataset.start); player.play(); }
});
</script>"""


def make_theme() -> Any:
    """Return Gradio's theme in the system's own letters: fonts are fetched from nowhere."""
    sans, mono = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    theme = gr.themes.Default(primary_hue="blue", font=sans, font_mono=mono)
    # Dark enough to be read on, which Gradio's own is not.
    fill = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    dark = {f"{name}_dark": value for name, value in fill.items()}
    return theme.set(**fill, **dark, block_label_text_color="*neutral_700", block_title_text_color="*neutral_700")


def make_page(service: FastAPI) -> Any:
    """Make the page for a service."""
    votes = compare.Votes(service.state.settings.console_votes)
    with gr.Blocks(
        title="Whisperloop", analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS), fill_width=True
    ) as page:
        gr.HTML("<h1>Whisperloop</h1>")
        with gr.Tabs():
            with gr.Tab("Transcribe", id="transcribe") as transcribe:
                _transcribe_tab(service, page, transcribe)
            with gr.Tab("Compare", id="compare") as side_by_side:
                _compare_tab(service, page, side_by_side, votes)
            with gr.Tab("Models", id="models") as models:
                _models_tab(service, page, models)
            with gr.Tab("Learning", id="learning") as waiting:
                _learning_tab(service, page, waiting)
    page.queue(default_concurrency_limit=8, max_size=64)
    return page


def _caller(service: FastAPI, request: gr.Request) -> Caller:
    """Return the visitor's own way to the service: their key, their address."""
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    client = (request.client.host, request.client.port or 0) if request.client else ("", 0)
    wants_key = service.state.settings.keys is not None
    key = key_in_cookie(Headers({"cookie": request.headers.get("cookie", "")})) if wants_key else None
    return Caller(service, key, client, headers)


def _said(error: ServiceError | str) -> str:
    return f'<p role="alert" class="note">{escape(str(error))}</p>'


def _done(text: str) -> str:
    return f'<p role="status">✓ {escape(text)}</p>'


async def _read(path: str) -> tuple[str, bytes]:
    return await asyncio.to_thread(_read_clip, path)


def _read_clip(path: str) -> tuple[str, bytes]:
    """Read an uploaded clip; Gradio has checked that it is one of its own, and so does this."""
    clip, folder = Path(path).resolve(), Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    try:
        if clip.is_relative_to(folder):
            return clip.name, clip.read_bytes()
    except OSError:
        pass
    raise ServiceError(400, "no_clip", "This clip is not here any more: upload or record it again.")


def _languages(service: FastAPI) -> list[tuple[str, str]]:
    model = service.state.models.main
    found = [("detected", AUTO)]
    for code, name in sorted(LANGUAGES.items(), key=lambda one: one[1]):
        try:
            if isinstance(model, Loaded):
                model.language_code(code)
        except UnknownLanguageError:
            continue
        found.append((name.capitalize(), code))
    return found


def _fields(language: str | None, task: str, model: str | None) -> dict[str, str]:
    fields = {"task": task}
    if language and language != AUTO:
        fields["language"] = language
    if model:
        fields["model"] = model
    return fields


def _transcribe_tab(service: FastAPI, page: Any, tab: Any) -> None:  # noqa: PLR0915 - a page reads top to bottom
    kept = gr.State(None, time_to_live=STATE_SECONDS)
    clip = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label="Clip",
        editable=False,
        buttons=["download"],
        elem_id="clip",
    )
    with gr.Row():
        language = gr.Dropdown([("detected", AUTO)], value=AUTO, label="Language", elem_id="language")
        task = gr.Radio(
            [("what was said", "transcribe"), ("into English", "translate")],
            value="transcribe",
            label="Task",
            elem_id="task",
        )
        model = gr.Dropdown([("what is served", "")], value="", label="Model", elem_id="model")
    go = gr.Button("Transcribe", variant="primary", elem_id="go")
    shown = gr.HTML(elem_id="shown")
    files = gr.HTML(elem_id="files")
    with gr.Group(visible=False) as editor:
        which = gr.Dropdown([("the whole clip", "whole")], label="Correct", elem_id="which")
        text = gr.Textbox(label="What was really said", lines=3, elem_id="text")
        consent = gr.Checkbox(
            label="Whoever speaks in it agrees that the clip is kept and learned from", elem_id="consent"
        )
        send = gr.Button("Send as correction", elem_id="send")
    sent = gr.HTML(elem_id="sent")

    async def look(chosen: str | None, request: gr.Request) -> Any:
        try:
            names = (await _caller(service, request).get("/v1/models"))["data"]
        except ServiceError:  # as it was: nobody wants to be moved to another model by a hiccup
            return gr.update(choices=_languages(service)), gr.update()
        served = [("what is served", ""), *((one["id"], one["id"]) for one in names if one["id"] != "whisper-1")]
        still = chosen if chosen in {ref for _, ref in served} else ""  # a version may be gone since
        return gr.update(choices=_languages(service)), gr.update(choices=served, value=still)

    async def run(
        path: str | None, language: str, task: str, model: str, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        hidden, nothing = gr.update(visible=False), gr.update()
        if not path:
            yield _said("Upload a clip or record one first."), "", hidden, nothing, nothing, None, ""
            return
        heard = ""
        yield transcript.show_progress("Listening"), "", hidden, nothing, nothing, None, ""
        try:
            name, content = await _read(path)
            async for event in _caller(service, request).transcribe(name, content, _fields(language, task, model)):
                if event["type"] == "transcript.text.delta":
                    heard += event["delta"]
                    yield transcript.show_progress(heard), "", hidden, nothing, nothing, None, ""
                elif event["type"] == "transcript.text.done":
                    yield _finished(path, event, task)
        except ServiceError as error:
            yield _said(error), "", hidden, nothing, nothing, None, ""

    def _finished(path: str, answer: dict[str, Any], task: str) -> tuple[Any, ...]:
        answer.pop("type")
        choices = transcript.parts(answer)
        # What was translated is not what was said: there is nothing to learn from it here.
        editable = gr.update(visible=bool(choices) and task == "transcribe")
        first = choices[0][1] if choices else None
        words = transcript.part(answer, first)[0] if first else ""
        url = f"/gradio_api/file={quote(path)}"
        kept_now = {"answer": answer, "path": path}
        return (
            transcript.show(answer, url),
            transcript.show_downloads(answer),
            editable,
            gr.update(choices=choices, value=first),
            gr.update(value=words),
            kept_now,
            "",
        )

    def choose(kept: dict[str, Any] | None, which: str | None) -> str:
        return transcript.part(kept["answer"], which)[0] if kept and which else ""

    async def correct(
        kept: dict[str, Any] | None, which: str | None, text: str, consent: bool, language: str, request: gr.Request
    ) -> tuple[str, Any]:
        if not kept or not which:
            return _said("Transcribe a clip first."), gr.update()
        answer = kept["answer"]
        spoken = transcript.language(answer, None if language == AUTO else language)
        if text.strip() and not spoken:
            return _said(
                "Nothing was heard in it, so its language is not known: choose it above, and send again."
            ), gr.update()
        hypothesis, cut = transcript.part(answer, which)
        said = {"correction": text} if text.strip() else {"no_speech": "true"}
        fields = {
            **said,
            **cut,
            "hypothesis": hypothesis,
            "language": spoken or "en",  # nobody speaks: any will do
            "model": answer["model"],
            "consent": "true" if consent else "false",
        }
        try:
            name, content = await _read(kept["path"])
            row = await _caller(service, request).post("/v1/feedback", data=fields, files={"file": (name, content)})
        except ServiceError as error:
            return _said(error), gr.update()
        again = " It takes the place of the one before." if row["merged"] else ""
        return _done(f"Thank you: {row['seconds']:.1f} s to learn from.{again}"), gr.update(value=False)

    outputs = [shown, files, editor, which, text, kept, sent]
    for event in (page.load, tab.select):
        event(look, [model], [language, model], **LISTS_ANEW)
    go.click(run, [clip, language, task, model], outputs, api_visibility="private", show_progress="hidden")
    which.input(choose, [kept, which], text, api_visibility="private")
    send.click(correct, [kept, which, text, consent, language], [sent, consent], api_visibility="private")


async def _whole(caller: Caller, name: str, content: bytes, ref: str) -> dict[str, Any]:
    """Return a version's whole answer, or why there is none: the others are worth comparing all the same."""
    event: dict[str, Any] = {}
    try:
        async for event in caller.transcribe(name, content, {"model": ref}):  # noqa: B007 - the last is the whole
            pass
    except ServiceError as error:
        return {"error": str(error)}
    return event


def _compare_tab(  # noqa: PLR0915 - a page reads top to bottom
    service: FastAPI, page: Any, tab: Any, votes: compare.Votes
) -> None:
    order = gr.State(None, time_to_live=STATE_SECONDS)
    known = gr.State(None, time_to_live=STATE_SECONDS)
    clip = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label="Clip",
        editable=False,
        buttons=["download"],  # not Gradio's share, which uploads to another host
        elem_id="compare-clip",
    )
    which = gr.CheckboxGroup([], label="Versions that are served", elem_id="compare-which")
    others = gr.HTML(elem_id="compare-others")
    blind = gr.Checkbox(label="Blind: hide the names of two or more, then vote", value=True, elem_id="blind")
    go = gr.Button("Compare", variant="primary", elem_id="compare-go")
    shown = gr.HTML(elem_id="compared")
    vote = gr.Radio([], label="Which is best?", visible=False, elem_id="vote")
    cast = gr.Button("Vote", visible=False, elem_id="cast")
    thanks = gr.HTML(elem_id="thanks")

    async def look(ticked: list[str] | None, known: list[str] | None, request: gr.Request) -> Any:
        caller = _caller(service, request)
        try:
            about = await caller.get("/version")
        except ServiceError:
            return gr.update(), "", known
        found = [about["model"], *(one["model"] for one in about["beside"] if one["role"] != "shadow")]
        served = [one for one in found if one]  # a shadow answers nobody
        try:
            cards = (await caller.get(f"/v1/models/{served[0]['name']}/versions"))["data"] if served else []
        except ServiceError:
            cards = []
        found = compare.choices(cards, served)
        listed = gr.update(choices=found, value=compare.still_ticked(found, ticked or (), known or ()))
        return listed, compare.show_others(cards, served), [ref for _, ref in found]

    async def run(
        path: str | None, refs: list[str], blind: bool, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        hidden = gr.update(visible=False)
        if not path or not refs:
            yield _said("Choose a clip, and at least one version."), hidden, hidden, None, ""
            return
        blind = compare.is_blind(refs, wanted=blind)
        chosen = compare.blind_order(refs, random.SystemRandom()) if blind else list(refs)
        names = compare.letters(len(chosen)) if blind else chosen
        answers: list[dict[str, Any]] = []
        yield transcript.show_progress("Listening"), hidden, hidden, None, ""
        try:
            name, content = await _read(path)
            for ref in chosen:
                answers.append(await _whole(_caller(service, request), name, content, ref))
                yield compare.show_answers(answers, names[: len(answers)], blind=blind), hidden, hidden, None, ""
        except ServiceError as error:
            yield _said(error), hidden, hidden, None, ""
            return
        votes = blind and not any("error" in answer for answer in answers)
        ballot = gr.update(choices=[*names, compare.SAME], value=None, visible=votes)
        shown = compare.show_answers(answers, names, blind=blind)
        yield shown, ballot, gr.update(visible=votes), chosen if votes else None, ""

    async def count(order: list[str] | None, vote: str | None) -> tuple[Any, ...]:
        if not order or not vote:
            return _said("Choose an answer first."), gr.update(), gr.update(), order
        try:
            chosen = await asyncio.to_thread(votes.cast, order, vote)
        except OSError:
            chosen = "counted, but the file of votes cannot be written to"
        hidden = gr.update(visible=False)
        return compare.show_vote(order, chosen, votes.counts), hidden, hidden, None

    for event in (page.load, tab.select):
        event(look, [which, known], [which, others, known], **LISTS_ANEW)
    outputs = [shown, vote, cast, order, thanks]
    go.click(run, [clip, which, blind], outputs, api_visibility="private", show_progress="hidden")
    cast.click(count, [order, vote], [thanks, vote, cast, order], api_visibility="private")


def _models_tab(service: FastAPI, page: Any, tab: Any) -> None:
    seen = gr.State(None, time_to_live=STATE_SECONDS)
    listed = gr.HTML(elem_id="versions")
    again = gr.Button("Look again", elem_id="look-again")
    with gr.Accordion("Curves", open=False, elem_id="drawn"):
        curves_of = gr.Dropdown([], label="Version", elem_id="curves-of")
        curves = gr.HTML(elem_id="curves")
    with gr.Accordion("Promote, or roll back", open=False, elem_id="moving"):
        allowed = gr.HTML()
        version = gr.Dropdown([], label="Version", elem_id="move-version")
        alias = gr.Dropdown(list(ALIASES), value="production", label="Alias", elem_id="move-alias")
        reason = gr.Textbox(label="Reason (kept in the registry's log)", elem_id="move-reason")
        with gr.Row():
            move = gr.Button("Move the alias", elem_id="move")
            back = gr.Button("Roll production back", elem_id="roll-back")
    said = gr.HTML(elem_id="moved")

    async def look(request: gr.Request) -> tuple[Any, ...]:
        caller = _caller(service, request)
        try:
            about = await caller.get("/version")
            name = about["model"]["name"] if about["model"] else service.state.settings.model.partition("@")[0]
            found = await caller.get(f"/v1/models/{quote(name)}/versions")
        except ServiceError as error:
            return _said(error), gr.update(), gr.update(), None, ""
        ids = [(_label(card), card["id"]) for card in found["data"]]
        drawn = [(_label(card), card["id"]) for card in found["data"] if card["pictures"]]
        state = {"name": name, "aliases": found["aliases"], "pictures": {c["id"]: c["pictures"] for c in found["data"]}}
        note = "" if found["may_move"] else _said(ServiceError(403, "admin_required", ""))
        return (
            versions.show_versions(found["data"]),
            gr.update(choices=ids, value=ids[0][1] if ids else None),
            gr.update(choices=drawn, value=drawn[0][1] if drawn else None),
            state,
            note,
        )

    async def draw(seen: dict[str, Any] | None, which: str | None, request: gr.Request) -> str:
        if not seen or not which:
            return ""
        caller, found = _caller(service, request), []
        for picture in seen["pictures"].get(which, ()):
            try:
                path = f"/v1/models/{quote(seen['name'])}/versions/{quote(which)}/curves/{picture}"
                found.append((picture.partition(".")[0], await caller.get_bytes(path)))
            except ServiceError as error:
                return _said(error)
        return versions.show_pictures(found)

    async def point(
        seen: dict[str, Any] | None, version: str | None, alias: str, reason: str, request: gr.Request
    ) -> str:
        if not seen or not version:
            return _said("Choose a version.")
        if not reason.strip():
            return _said("Say why: the reason is kept in the registry's log.")
        # What the visitor saw is what is expected: whoever was faster is not overruled.
        body = {"version": version, "expected": seen["aliases"].get(alias), "reason": reason}
        try:
            moved = await _caller(service, request).post(f"/v1/models/{quote(seen['name'])}/aliases/{alias}", json=body)
        except ServiceError as error:
            return _said(error)
        return _done(f"{moved['alias']} is now {moved['version']}.")

    async def roll_back(seen: dict[str, Any] | None, reason: str, request: gr.Request) -> str:
        previous = (seen or {}).get("aliases", {}).get("previous")
        if not previous:
            return _said("There is no previous version to roll back to.")
        return await point(seen, previous, "production", reason, request)

    outputs = [listed, version, curves_of, seen, allowed]
    for event in (page.load, tab.select, again.click):
        event(look, None, outputs, api_visibility="private")
    curves_of.change(draw, [seen, curves_of], curves, api_visibility="private")
    moved = move.click(point, [seen, version, alias, reason], said, api_visibility="private")
    moved.then(look, None, outputs, api_visibility="private")
    rolled = back.click(roll_back, [seen, reason], said, api_visibility="private")
    rolled.then(look, None, outputs, api_visibility="private")


def _label(card: dict[str, Any]) -> str:
    return f"{card['id']} ({', '.join(card['aliases'])})" if card["aliases"] else str(card["id"])


def _learning_tab(service: FastAPI, page: Any, tab: Any) -> None:
    waiting = gr.HTML(elem_id="waiting")
    reports = gr.HTML(elem_id="reports")
    again = gr.Button("Look again", elem_id="learning-again")

    async def look(request: gr.Request) -> tuple[str, str]:
        caller = _caller(service, request)
        found = await asyncio.to_thread(learning.read_reports, service.state.settings.console_reports)
        since = learning.learned_at(found) or 0.0
        try:
            kept = await caller.get("/v1/feedback/counts")
            counts = await caller.get("/v1/feedback/counts", since=since)
            rows = (await caller.get("/v1/feedback", limit=20, since=since))["data"]
            shown = learning.show_counts(counts, kept) + learning.show_corrections(rows)
        except ServiceError as error:
            shown = _said(error)
        return f"<h2>Waiting to be learned</h2>{shown}", f"<h2>Retrainings</h2>{learning.show_reports(found)}"

    for event in (page.load, tab.select, again.click):
        event(look, None, [waiting, reports], api_visibility="private")
