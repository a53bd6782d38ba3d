() => {
  const visible = (selector) =>
    [...document.querySelectorAll(selector)].find((element) => element.offsetParent);

  // Ctrl+Enter (Cmd+Enter on a Mac) presses the main button of the open tab.
  window.svfitPress = () => visible("button.go")?.click();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && visible("button.go")) {
      event.preventDefault();
      svfitPress();
    }
  });

  // On a phone the result is below the form: scroll there, once the live view has appeared.
  document.addEventListener("click", (event) => {
    if (innerWidth < 769 && event.target.closest("button.go")) {
      const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
      setTimeout(() => visible(".output-column").scrollIntoView({ behavior }), 300);
    }
  });

  // An empty gallery has a name, so it needs a role; a picture that is a button needs a name.
  const mend = () => {
    document.querySelectorAll("div.empty[aria-label]").forEach((place) => (place.role = "img"));
    document.querySelectorAll("button .image-frame img").forEach((picture) => {
      const label = picture.closest(".block")?.querySelector("[data-testid=block-label]");
      if (!picture.alt) picture.alt = label?.textContent.trim() || "picture";
    });
  };

  // Gradio tells the browser a job's place in the queue, in words of its own.
  const ordinal = (n) => {
    const kind = new Intl.PluralRules("en", { type: "ordinal" }).select(n);
    return n + { one: "st", two: "nd", few: "rd", other: "th" }[kind];
  };
  const queued = /queue: (\d+)\/\d+ \|\s*([\d.]+)(?:\/([\d.]+))?s/;
  const tellPlaces = () =>
    document.querySelectorAll(".block > .wrap .progress-text").forEach((place) => {
      const [, number, waited, expected] = place.textContent.match(queued) || [];
      const message = place.closest(".block").querySelector(".live .message");
      if (!number || !message) return;
      const left = Math.round(expected - waited);
      message.textContent = `${ordinal(+number)} in the queue${left > 0 ? `, about ${left} s` : ""}`;
    });

  // The browser's tab shows how far a training is.
  setInterval(() => {
    mend();
    tellPlaces();
    const percent = document.querySelector(".training-strip")?.dataset.percent;
    const title = percent ? `${percent} % · SVFit` : "SVFit";
    if (document.title !== title) document.title = title;
  }, 1000);
}
