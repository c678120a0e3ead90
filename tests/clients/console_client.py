"""What a person does at the console, in a headless browser, with mouse and keyboard.

console_client.py URL SCREENSHOTS_DIR [KEY]   needs the adapters plain, other and broken"""
import base64, json, os, sys, urllib.request

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

url, pictures = sys.argv[1:3]
key = sys.argv[3] if len(sys.argv) > 3 else None
LONG_NAME = "a-name-" + "x" * 121
os.makedirs(pictures, exist_ok=True)

options = webdriver.ChromeOptions()
options.binary_location = "/usr/bin/chromium"
for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
             "--window-size=1280,1500", "--force-prefers-reduced-motion"):
    options.add_argument(flag)
options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
wait = WebDriverWait(browser, 20, poll_frequency=0.05)


def by_id(name):
    return browser.find_element(By.ID, name)


def text_of(name):
    return browser.execute_script("return document.getElementById(arguments[0]).textContent", name)


def until(condition, what):
    wait.until(lambda _: condition(), what)


def row(adapter):
    cells = browser.execute_script(
        "return [...(document.querySelector(`tr[data-id='${arguments[0]}']`)?.cells ?? [])]"
        ".map(cell => cell.textContent)", adapter)
    return dict(zip(("name", "tier", "pinned", "rank", "size", "hits", "loads"), cells))


def ask(path, body):
    """A call of somebody else's."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode(), headers))


def press(label):
    browser.execute_script(
        "[...document.querySelectorAll('button')]"
        ".find(b => b.getAttribute('aria-label') === arguments[0]).click()", label)


def picture(name):
    """Of the whole page."""
    browser.execute_script("scrollTo(0, 0)")
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {
        "captureBeyondViewport": True,
        "clip": {**size, "height": min(size["height"], 3000), "scale": 1}})
    with open(f"{pictures}/{name}.png", "wb") as file:
        file.write(base64.b64decode(shot["data"]))


def answers():
    return browser.execute_script(
        "return [...document.querySelectorAll('.answer')].map(a => "
        "[...a.querySelectorAll('h3, pre, p')].map(part => part.textContent))")


def three_answers():
    until(lambda: len(answers()) == 3 and all("ended: " in note for _, _, note in answers())
          and by_id("run").is_enabled(), "three answers")


def set_scheme(scheme):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": scheme}]})


def contrast():
    """Of the text on the page: WCAG's ratio."""
    return browser.execute_script("""
        const light = (text) => {
          const [r, g, b] = text.match(/[0-9.]+/g).map(Number).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ratio = (node) => {
          let under = node;
          const ground = () => getComputedStyle(under).backgroundColor;
          while (ground() === "rgba(0, 0, 0, 0)") under = under.parentElement;
          const [a, b] = [light(getComputedStyle(node).color), light(ground())];
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        };
        const what = "p, td, th, dt, dd, label, button, h2, figcaption span";
        return Math.min(...[...document.querySelectorAll(what)]
          .filter((node) => node.offsetParent && node.textContent && !node.disabled)
          .map(ratio));""")


try:
    set_scheme("light")
    browser.get(url + "/console")
    if key:
        until(lambda: by_id("key-dialog").get_attribute("open"), "asked for a key")
        browser.switch_to.active_element.send_keys("wrong", Keys.ENTER)
        until(lambda: by_id("key-dialog").get_attribute("open")
              and not by_id("key-text").get_attribute("value"), "asked again")
        picture("key")
        by_id("key-text").send_keys(key, Keys.ENTER)
        until(lambda: "serving" in text_of("about"), "the key counts")
        assert browser.execute_script("return sessionStorage['lorica-key']") == key
        assert browser.execute_script("return localStorage.length") == 0
    until(lambda: "serving" in text_of("about") and row("plain"), "the adapters are there")
    assert row("plain")["tier"] in ("source", "host", "device"), row("plain")

    # Adapters: check, register, load, pin, evict.
    press("Check broken")
    until(lambda: "cannot be served" in text_of("said"), "what is wrong with it")
    press("Check other")
    until(lambda: "other can be served" in text_of("said") and "rank 8" in text_of("said"),
          "that all is well")
    by_id("register-name").send_keys("mine")
    by_id("register-source").send_keys("plain", Keys.ENTER)
    until(lambda: "Register mine: done" in text_of("said") and row("mine"), "it is registered")
    # With the keyboard: the focus stays where it is, whatever the button says by then.
    browser.execute_script("document.querySelector('[aria-label=\"Pin mine\"]').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: row("mine")["pinned"] == row("mine")["tier"] == "device", "it is pinned")
    assert browser.switch_to.active_element.get_attribute("aria-label") == "Unpin mine"
    press("Evict mine")
    until(lambda: "Evict mine:" in text_of("said") and "done" not in text_of("said"),
          "a pin holds")
    press("Unpin mine")
    until(lambda: row("mine")["pinned"] == "", "it is not pinned")
    press("Evict mine")
    until(lambda: row("mine")["tier"] == "source", "it is evicted")

    # A name of any length leaves the rest of its row in sight, and comes and goes.
    by_id("register-name").clear()
    by_id("register-name").send_keys(LONG_NAME)
    by_id("register").submit()
    until(lambda: row(LONG_NAME), "it is registered")
    ends = browser.execute_script(
        "return [...document.querySelectorAll('td.do button')]"
        ".map(button => button.getBoundingClientRect().right)")
    assert max(ends) <= browser.execute_script("return innerWidth"), ends
    by_id("filter").send_keys("zz")
    until(lambda: "begins with zz" in text_of("none") and by_id("none").is_displayed(), "none")
    by_id("filter").clear()
    by_id("filter").send_keys("pl")
    until(lambda: row("plain") and not row(LONG_NAME), "the filter counts")
    kept = browser.find_element(By.CSS_SELECTOR, "tr[data-id='plain'] button")
    used = row("plain")["hits"]
    ask("/v1/completions", {"model": "plain", "prompt": "hi", "max_tokens": 1})
    until(lambda: row("plain")["hits"] != used, "the next reading")
    assert kept.is_enabled(), "a button is still the same one"
    assert not by_id("none").is_displayed()
    by_id("filter").send_keys(Keys.BACKSPACE, Keys.BACKSPACE)
    until(lambda: row(LONG_NAME), "all are there again")
    ask("/lorica.v1.AdapterService/DeleteAdapter", {"adapter_id": LONG_NAME})
    until(lambda: not row(LONG_NAME), "it is gone")

    # The keyboard alone: filter, prompt, run.
    by_id("adapters").click()
    browser.execute_script("document.activeElement.blur()")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "filter"
    browser.switch_to.active_element.send_keys("mi")
    until(lambda: row("mine") and not row("other"), "the filter counts")
    browser.switch_to.active_element.send_keys(Keys.BACKSPACE, Keys.BACKSPACE)
    until(lambda: row("other"), "all are there again")
    browser.execute_script("document.activeElement.blur()")
    body.send_keys("p")
    assert browser.switch_to.active_element.get_attribute("id") == "prompt"
    browser.switch_to.active_element.send_keys(
        "Hello there, what is the weather like?", Keys.TAB, "plain, other",
        Keys.CONTROL, Keys.ENTER)
    three_answers()
    names, texts, notes = zip(*answers())
    assert names == ("plain", "other", "base model"), names
    assert all(texts) and all("tokens" in note for note in notes), answers()
    by_id("play-adapters").clear()
    by_id("play-adapters").send_keys("missing", Keys.ENTER)
    until(lambda: any("does not exist" in note for _, _, note in answers())
          and by_id("run").is_enabled(), "an error is told")
    by_id("play-adapters").clear()
    by_id("play-adapters").send_keys("plain, other", Keys.ENTER)
    three_answers()
    until(lambda: int(row("plain")["hits"]) > 0, "the use is counted")

    # Plots have lines, and say in words what they show.
    plots = lambda: browser.execute_script(
        "return [...document.querySelectorAll('.plot svg')]"
        ".map(s => [s.querySelectorAll('path').length, s.getAttribute('aria-label')])")
    until(lambda: all(lines > 0 and "p95 –" not in words for lines, words in plots()),
          "times are plotted")
    set_scheme("light")
    assert contrast() >= 4.5, contrast()
    picture("light")
    set_scheme("dark")
    assert contrast() >= 4.5, contrast()
    picture("dark")
    browser.set_window_size(420, 900)
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= innerWidth"), "fits a phone"
    picture("narrow")
    browser.set_window_size(1280, 1500)

    browser.execute_script("document.activeElement.blur()")
    body.send_keys("?")
    until(lambda: by_id("help-dialog").get_attribute("open"), "the keys are told")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)

    browser.get(url + "/docs")
    until(lambda: "POST /v1/chat/completions" in text_of("routes"), "the routes are told")
    picture("docs")

    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    outside = {message["params"]["request"]["url"] for message in asked
               if message["method"] == "Network.requestWillBeSent"}
    ours = (url + "/", "data:", "chrome:", "about:")
    outside = {place for place in outside if not place.startswith(ours)}
    assert not outside, outside
    loud = [entry for entry in browser.get_log("browser")
            if "status of 4" not in entry["message"]]
    assert not loud, loud
finally:
    browser.quit()
print("ok")
