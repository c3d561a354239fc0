// Names and keys for what the theme leaves without: the search dialog, code's buttons, wide tables.
const field = document.querySelector(".md-search__input");
// The theme searches when a key is let go: also when text is pasted with a mouse.
field?.addEventListener("paste", () => setTimeout(() => field.dispatchEvent(new KeyboardEvent("keyup", { key: "End" }))));
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, i) => nav.setAttribute("aria-label", `Code ${i + 1}`));
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach((box) => (box.tabIndex = 0));
});
