// Dark or light: what the system prefers, until a choice is made here. No module, so that it runs before the first paint.
(() => {
  const KEY = "anysize-theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  try {
    const stored = localStorage.getItem(KEY);
    if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  } catch {
    // A browser that stores nothing follows the system.
  }

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => (button.textContent = isDark() ? "Light" : "Dark");
    button.setAttribute("aria-description", "Changes the colours of this page");
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {
        // It holds until the page is closed.
      }
      say();
    });
    system.addEventListener("change", say);
    say();
  });
})();
