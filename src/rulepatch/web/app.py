"""Layout of the page, and the handlers of its components."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from rulepatch.errors import RulepatchError
from rulepatch.methods import Rewrite
from rulepatch.settings import choices_of, kinds_of, usual_of, written
from rulepatch.web import handlers
from rulepatch.web.canvas import BRUSH
from rulepatch.web.handlers import ALL, SEARCH
from rulepatch.web.sessions import Session, Sessions

__all__ = ["CSS", "HEAD", "build"]

CSS = (Path(__file__).parent / "page.css").read_text("utf-8")

HEAD = '<meta name="viewport" content="width=device-width, initial-scale=1">'

CAN_PAINT = """() => { const canvas = document.createElement('canvas');
  const able = canvas.getContext('webgl2') || canvas.getContext('webgl');
  document.querySelector('#no-webgl').style.display = able ? 'none' : ''; }"""

NO_WEBGL = (
    "**The painter needs WebGL, which this browser does not have.** Mark the concept by its name, by clicking on it, "
    "or by uploading a mask (white where the concept is)."
)

DOWNLOAD = "() => { const link = document.querySelector('#file'); (link?.querySelector('a') ?? link)?.click(); }"


def build(sessions: Sessions) -> gr.Blocks:
    """The page.

    Args:
        sessions: the active sessions.

    Returns:
        The app, to be launched.
    """
    return _Page(sessions).blocks


class _Page:
    """Components of the page, in the order of use, and their event handlers."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        with gr.Blocks(title="rulepatch", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            gr.Markdown(
                "# Rewrite a rule with a brush\nA classifier has learnt a wrong rule? Mark a concept in one image, "
                "say what to treat like it, and the rule is rewritten in every class."
            )
            self.notice = gr.Markdown(NO_WEBGL, elem_id="no-webgl")
            self._model()
            with gr.Row():
                with gr.Column(min_width=320):
                    self._picture()
                    self._mark()
                with gr.Column(min_width=320):
                    self._replacement()
                    self._exemplars()
            self._rewriting()
            self._rules()
            self._wire()

    # Layout

    def _model(self) -> None:
        models = list(self.sessions.catalog.models)
        with gr.Row():
            self.model = gr.Dropdown(models, value=models[0], label="Model", min_width=200)
            self.about = gr.Markdown()

    def _picture(self) -> None:
        gr.Markdown("## 1. An image that shows the concept")
        with gr.Row():
            self.folder = gr.Dropdown(label="Images of", min_width=120)
            self.label = gr.Dropdown([ALL], value=ALL, label="Class", min_width=120)
        self.choice = gr.Gallery(
            label="Choose an image", columns=5, height=230, allow_preview=False, buttons=[], object_fit="contain",
            interactive=False, elem_id="choice",
        )  # fmt: skip
        self.upload = _upload("Upload an image", "upload")

    def _mark(self) -> None:
        gr.Markdown("## 2. Mark the concept")
        with gr.Tabs():
            with gr.Tab("Brush"):
                self.painter = gr.ImageEditor(
                    label="Paint over the concept", type="pil", image_mode="RGBA", sources=(), transforms=(),
                    layers=False, buttons=[], format="png", height=560, elem_id="painter",
                    brush=gr.Brush(40, colors=[(BRUSH, 0.6)], default_color=(BRUSH, 0.6), color_mode="fixed"),
                )  # fmt: skip
            with gr.Tab("By name"):
                self.concept = gr.Dropdown([], label="Concept", allow_custom_value=True, elem_id="concept")
                self.by_name = gr.Button("Mark it", size="sm", elem_id="by-name")
                self.unnamed = gr.Markdown()
            with gr.Tab("By click"):
                self.clicked = gr.Image(
                    label="Click on the concept, once or several times", interactive=False, buttons=[], type="pil",
                    format="png", elem_id="clicked",
                )  # fmt: skip
                self.likeness = gr.Slider(0.05, 0.95, value=0.2, step=0.05, label="How alike it must be")
                self.forget = gr.Button("Forget the clicks", size="sm")
            with gr.Tab("Upload a mask"):
                gr.Markdown("White where the concept is, black elsewhere, of the image's size.")
                self.mask = _upload("Upload a mask", "mask")
        self.name = gr.Textbox(label="What it is called (for the rule's name)", placeholder="road", elem_id="name")

    def _replacement(self) -> None:
        gr.Markdown("## 3. What is to be treated like it")
        with gr.Tabs():
            with gr.Tab("A texture"):
                self.textures = gr.Gallery(
                    label="Choose a texture", columns=5, height=230, allow_preview=False, buttons=[], interactive=False,
                    elem_id="textures",
                )  # fmt: skip
            with gr.Tab("Upload"):
                self.texture = _upload("Upload a texture", "texture")
            with gr.Tab("A word on a note"):
                self.word = gr.Textbox(
                    label="A word that the model should overlook", placeholder="iPod", elem_id="word"
                )
                self.write = gr.Button("Put the note up", size="sm")
        self.predictions = gr.HTML(label="What the model says", elem_id="predictions")

    def _exemplars(self) -> None:
        with gr.Row():
            self.add = gr.Button("Add as an exemplar", size="sm", min_width=120)
            self.remove = gr.Button("Remove the last", size="sm", min_width=120)
        self.exemplars = gr.HTML(elem_id="exemplars")

    def _rewriting(self) -> None:
        gr.Markdown("## 4. Rewrite")
        with gr.Row():
            self.site = gr.Dropdown([SEARCH], value=SEARCH, label="Site", min_width=200, elem_id="site")
            self.rank, self.strength = _slider("rank", step=1), _slider("strength", step=0.1)
            gate = Rewrite.model_fields["gate"]
            self.gate = gr.Dropdown(
                list(map(written, [*choices_of(kinds_of(gate)), None, *usual_of(gate)])), label="Gate", min_width=120,
                value=written(gate.get_default()), info=gate.description, allow_custom_value=True, elem_id="gate",
            )  # fmt: skip
        with gr.Row():
            self.rewrite = gr.Button("Rewrite", variant="primary", min_width=160, elem_id="rewrite")
            self.stop = gr.Button("Stop", variant="stop", min_width=100, elem_id="stop")
            self.undo = gr.Button("Undo", min_width=100, elem_id="undo")
        self.numbers = gr.HTML(elem_id="numbers")
        with gr.Tabs():
            with gr.Tab("Before and after"):
                self.wall = gr.HTML(elem_id="wall")
            with gr.Tab("Where the rule fires") as self.heatmap_tab:
                self.heatmap = gr.HTML(elem_id="heatmap")
            with gr.Tab("What the search tried"):
                self.tried = gr.Code(language=None, label="Candidates", interactive=False, buttons=["copy"])

    def _rules(self) -> None:
        gr.Markdown("## 5. Rules")
        self.rules = gr.CheckboxGroup([], label="Rules of this model, each on or off", elem_id="rules")
        with gr.Row():
            self.title = gr.Textbox(label="Name of the rule", placeholder="snow as road", min_width=200)
            self.keep = gr.Button("Keep the rule", min_width=120, elem_id="keep")
        with gr.Row():
            self.load = gr.UploadButton(
                "Load an edit", file_types=[".safetensors"], type="filepath", size="sm", min_width=120, elem_id="load"
            )
            self.save = gr.Button("Download the edit", size="sm", min_width=120, elem_id="save")
            self.bundle = gr.Button("Download everything", size="sm", min_width=120, elem_id="bundle")
        self.file = gr.DownloadButton("Download", visible="hidden", elem_id="file")
        with gr.Accordion("The same by the command line and from Python", open=False):
            gr.Markdown("*Download everything* has the exemplars and edits that these lines name.")
            self.commands = gr.Code(language="shell", label="Command line", interactive=False, buttons=["copy"])
            self.program = gr.Code(language="python", label="Python", interactive=False, buttons=["copy"])

    # Events

    def _wire(self) -> None:
        picture = ["painter", "clicked", "predictions"]
        result = ["numbers", "wall", "predictions", "tried", "commands", "program", "heatmap"]
        kept = ["exemplars", "rules", *result]
        begun = [
            "about", "folder", "label", "choice", "concept", "by_name", "unnamed", "name", "word", "title", "textures",
            "site", "rank", "strength", "gate", *picture, *kept,
        ]  # fmt: skip
        listed = (["folder", "label"], ["choice", "label"])
        clicks = ["site", "likeness", "name"]
        settings = ["rank", "strength", "gate"]
        self.blocks.load(None, None, self.notice, js=CAN_PAINT)
        self.blocks.unload(self._end)
        for event in (self.blocks.load, self.model.input):
            began = self._on(event, handlers.begin, ["model"], begun, fresh=True)
            self._on(began.success, handlers.look, [], kept)
        self._on(self.folder.input, handlers.list_pictures, *listed)
        self._on(self.label.input, handlers.list_pictures, *listed)
        self._on(self.choice.select, handlers.choose, [], picture, place=True)
        self._on(self.upload.upload, handlers.upload, ["upload"], picture)
        self._on(self.painter.input, handlers.paint, ["painter", "name"], ["clicked", "predictions"], latest=True)
        self._on(self.by_name.click, handlers.mark_by_name, ["concept"], [*picture, "name"])
        self._on(self.clicked.select, handlers.click, clicks, picture, place=True)
        self._on(self.likeness.input, handlers.mark_by_points, clicks, picture, latest=True)
        self._on(self.forget.click, handlers.forget, [], picture)
        self._on(self.mask.upload, handlers.upload_mask, ["mask", "name"], picture)
        self._on(self.textures.select, handlers.replace_by, [], ["predictions"], place=True)
        self._on(self.texture.upload, handlers.upload_texture, ["texture"], ["predictions"])
        self._on(self.write.click, handlers.write, ["word"], ["predictions"])
        self._on(self.word.submit, handlers.write, ["word"], ["predictions"])
        self._on(self.add.click, handlers.add, [], ["exemplars"])
        self._on(self.remove.click, handlers.remove, [], ["exemplars"])
        made = self._on(
            self.rewrite.click, handlers.rewrite, ["site", *settings], [*kept, *settings], shows_progress=True
        )
        self._on(made.success, handlers.measure, [], ["numbers"])
        for control in (self.rank, self.strength, self.gate):
            adjusted = self._on(control.input, handlers.adjust, settings, result, latest=True)
            self._on(adjusted.success, handlers.measure, [], ["numbers"])
        self.stop.click(self._stop, queue=False, api_visibility="private")
        self._on(self.undo.click, handlers.undo, [], kept)
        self._on(self.heatmap_tab.select, handlers.fire, [], ["heatmap"])
        self._on(self.rules.input, handlers.switch, ["rules"], kept)
        self._on(self.keep.click, handlers.keep, ["title"], [*kept, "title"])
        self._on(self.load.upload, handlers.load, ["load"], kept)
        for button, step in ((self.save, handlers.save), (self.bundle, handlers.bundle)):
            written = self._on(button.click, step, [], ["file"])
            written.success(None, js=DOWNLOAD)

    def _on(
        self,
        event: Callable[..., Any],
        step: Callable[..., handlers.Updates],
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        fresh: bool = False,
        place: bool = False,
        latest: bool = False,
        shows_progress: bool = False,
    ) -> Any:
        """Connect an event to a handler, which runs in the user's session; its errors are shown as messages.

        Args:
            event: event of a component.
            step: handler in `steps`.
            inputs: components whose values are passed.
            outputs: components that it may change.
            fresh: start a new session.
            place: pass the coordinates of the event first.
            latest: of several queued events handle only the last.
            shows_progress: whether to show progress.

        Returns:
            The dependency, to chain further handlers.
        """

        def take(request: gr.Request, tell: Any, given: Sequence[Any]) -> dict[Any, Any]:
            def watcher(what: str, done: int, total: int) -> None:
                tell((done, total), desc=what, unit="")

            try:
                session = self._session(request, str(given[0]) if fresh else None)
                with session.at_work(watcher if shows_progress else None):
                    shown = step(session, *given)
            except RulepatchError as error:
                raise gr.Error(str(error), duration=15, title="Not done", print_exception=False) from None
            if not shown:  # Gradio would treat an empty dictionary as a value
                shown = {outputs[0]: gr.skip()}
            return {
                getattr(self, name): gr.update(**value) if isinstance(value, handlers.Part) else value
                for name, value in shown.items()
            }

        def handle(request: gr.Request, progress: Any = gr.Progress(), *given: Any) -> dict[Any, Any]:  # noqa: B008
            return take(request, progress, given)

        def handle_at(request: gr.Request, event: gr.SelectData, *given: Any) -> dict[Any, Any]:
            return take(request, None, [event.index, *given])

        return event(
            handle_at if place else handle,
            [getattr(self, name) for name in inputs],
            [getattr(self, name) for name in outputs],
            api_visibility="private",
            show_progress="full" if shows_progress else "hidden",
            show_progress_on=[self.numbers] if shows_progress else None,
            trigger_mode="always_last" if latest else "once",
            concurrency_limit=None,
        )

    def _session(self, request: gr.Request, model: str | None) -> Session:
        who = str(request.session_hash)
        return self.sessions.of(who) if model is None else self.sessions.begin(who, model)

    def _stop(self, request: gr.Request) -> None:
        self.sessions.of(str(request.session_hash)).stop()

    def _end(self, request: gr.Request) -> None:
        who = str(request.session_hash)
        self.blocks.state_holder.session_data.pop(who, None)  # Gradio keeps the state of a closed page for an hour
        self.sessions.end(who)


def _upload(label: str, name: str) -> gr.UploadButton:
    """Upload button for images without Gradio's own validation."""
    return gr.UploadButton(label, file_types=["image"], type="binary", size="sm", elem_id=name)


def _slider(name: str, *, step: float) -> gr.Slider:
    """A slider over what is usual of a setting of the rewrite."""
    field = Rewrite.model_fields[name]
    least, most = usual_of(field)
    return gr.Slider(
        least, most, value=field.get_default(), step=step, label=name.capitalize(), min_width=160, elem_id=name
    )
