// Tables, code and formulas that are wider than the page scroll on their own. Make the
// Tab key reach them, so that the arrow keys can scroll them.
document.addEventListener("DOMContentLoaded", () => {
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) {
        target.tabIndex = 0;
      } else {
        target.removeAttribute("tabindex");
      }
    }
  });
  document
    .querySelectorAll("article :is(table, pre, div.math)")
    .forEach((wide) => observer.observe(wide));
});
