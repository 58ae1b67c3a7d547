// TensorBoard imports this module into an empty page and calls `render`.
import { Page } from "./page.js";

function followTheme() {
  // TensorBoard marks its own body; this page is a frame in it.
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (window.parent !== window) dark = window.parent.document.body.classList.contains("dark-mode");
  const theme = dark ? "dark" : "light";
  const changed = document.documentElement.dataset.theme !== theme;
  document.documentElement.dataset.theme = theme;
  return changed;
}

export async function render() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = "./style.css";
  const styled = new Promise((done) => { style.onload = style.onerror = done; });
  document.head.append(style);
  document.documentElement.lang = "en";
  document.title = "Gradients";
  followTheme();
  await styled; // sizes and colours come from it
  const page = new Page(document.body);
  const body = window.parent !== window && window.parent.document.body;
  if (body) {
    const redraw = () => { if (followTheme()) page.draw(); };
    new MutationObserver(redraw).observe(body, { attributeFilter: ["class"] });
  }
  await page.start();
}
