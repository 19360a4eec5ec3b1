"""A real Chromium for tests of pages: headless, without a network, and with a record of what it logs and asks for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WHY_NOT = "needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver), and selenium"

QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--proxy-server=http://127.0.0.1:9",  # whatever asks a network fails
)
SOFTWARE_WEBGL = ("--enable-unsafe-swiftshader", "--use-angle=swiftshader")
NO_WEBGL = ("--disable-3d-apis",)


def browser_path() -> str | None:
    """The browser's program, if browser, driver and selenium are there."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return None
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return found if shutil.which("chromedriver") else None


@contextmanager
def opened(
    page: Path, folder: Path, *, webgl: bool = True, dark: bool = False, size: tuple[int, int] = (1280, 720), before: str = ""
) -> Iterator[Any]:
    """A page in a fresh browser, drawn; `folder` takes its profile and downloads. The script `before` runs before those of the page."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = ChromeOptions()
    options.binary_location = browser_path() or ""
    own = (f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}")
    for flag in (*QUIET, *(SOFTWARE_WEBGL if webgl else NO_WEBGL), *own):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder), "download.prompt_for_download": False})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver"), log_output=os.devnull))
    try:
        driver.set_script_timeout(120)
        driver.execute_cdp_cmd("Network.enable", {})
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.get("about:blank")
        for kind in ("browser", "performance"):
            driver.get_log(kind)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": before})
        driver.get(page.as_uri())
        WebDriverWait(driver, 120, 0.05).until(lambda it: it.execute_script("return document.body.dataset.ready || null"))
        yield driver
    finally:
        driver.quit()


def complaints(driver: Any) -> list[str]:
    """Errors in the console."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def requests(driver: Any) -> list[str]:
    """Addresses that were asked for."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]


_TEXTS = """
  const found = [];
  for (const figure of document.querySelectorAll(".figure, #graph")) {
    const frame = figure.getBoundingClientRect();
    if (!frame.width) continue;
    const boxes = [];
    for (const text of figure.querySelectorAll("svg text")) {
      const box = text.getBoundingClientRect(), turn = text.getScreenCTM();
      if (!text.textContent.trim() || box.width < 1 || box.height < 1 || getComputedStyle(text).visibility === "hidden") continue;
      if (Math.abs(turn.a * turn.b) > 1e-6 * (turn.a ** 2 + turn.b ** 2)) continue; // its box says nothing where it is slanted
      const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (out > 1) found.push([figure.id, `${text.textContent} leaves it by ${out.toFixed(1)}`]);
      for (const [other, name] of boxes) {
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        const by = `${across.toFixed(1)} x ${down.toFixed(1)}`;
        if (across > 1.5 && down > 3) found.push([figure.id, `${text.textContent} on ${name} by ${by}`]);
      }
      boxes.push([box, text.textContent]);
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push(["page", `is ${document.documentElement.scrollWidth} wide`]);
  for (const part of document.querySelectorAll("aside, header, .pair, .choices, .scroll, .see, .note")) {
    const where = part.className || part.tagName;
    if (part.scrollWidth > part.clientWidth + 1) found.push([where, `${part.scrollWidth} wide in ${part.clientWidth}`]);
  }
  return found;
"""


def misplaced(driver: Any) -> list[tuple[str, str]]:
    """Texts that cover each other, or that leave their figure or their part of the page: (where, what)."""
    return [(figure, what) for figure, what in driver.execute_script(_TEXTS)]
