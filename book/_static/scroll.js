// A box that scrolls sideways can be reached and scrolled with the keyboard.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const boxes = "pre, .formula, .tangled-file, .cell_output .output, .pst-scrollable-table-container";
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const scrolls = target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight;
      if (scrolls && getComputedStyle(target).overflowX !== "visible") target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const box of document.querySelectorAll(boxes)) observer.observe(box);
});
