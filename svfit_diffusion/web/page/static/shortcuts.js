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

  // The browser's tab shows how far a training is.
  setInterval(() => {
    mend();
    const percent = document.querySelector(".training-strip")?.dataset.percent;
    const title = percent ? `${percent} % · SVFit` : "SVFit";
    if (document.title !== title) document.title = title;
  }, 1000);
}
