() => {
  const visible = (selector) =>
    [...document.querySelectorAll(selector)].find((element) => element.offsetParent);

  // Ctrl+Enter (Cmd+Enter on a Mac) presses the main button of the open tab.
  document.addEventListener("keydown", (event) => {
    const button = visible("button.go");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && button) {
      event.preventDefault();
      button.click();
    }
  });

  // On a phone the result is below the form: scroll there, once the live view has appeared.
  document.addEventListener("click", (event) => {
    if (innerWidth < 769 && event.target.closest("button.go")) {
      setTimeout(() => visible(".output-column").scrollIntoView({ behavior: "smooth" }), 300);
    }
  });
}
