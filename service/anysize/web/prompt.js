// The prompt and its options, and the buttons that start and stop an answer.

const EXAMPLES = { text: "The history of the bicycle begins", chat: "What is the capital of France?" };
const LABELS = { text: "Text to go on from", chat: "Your message" };

export class Prompt {
  /** @param {{start: () => void, stop: () => void, clear: () => void}} does */
  constructor(does) {
    this.form = document.getElementById("prompt");
    this.text = document.getElementById("prompt-text");
    this.error = document.getElementById("prompt-error");
    this.generate = document.getElementById("generate");
    this.stop = document.getElementById("stop");
    this.newChat = document.getElementById("new-chat");
    this.text.value = EXAMPLES.text;
    for (const radio of this.form.elements.kind) {
      radio.addEventListener("change", () => {
        this.show();
        does.clear();
      });
    }
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.generate.disabled && this.isComplete()) does.start();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.stop.disabled) does.stop();
    });
    this.stop.addEventListener("click", does.stop);
    this.newChat.addEventListener("click", does.clear);
    this.show();
  }

  get isChat() {
    return this.form.elements.kind.value === "chat";
  }

  /** What is asked. */
  get asked() {
    return this.isChat ? { message: this.text.value } : { prompt: this.text.value };
  }

  /** The options as a request has them. */
  get options() {
    return { max_tokens: number("max-tokens").valueAsNumber, temperature: number("temperature").valueAsNumber };
  }

  /** Say whether an answer is under way. Focus goes along with the button that can be pressed. */
  set isRunning(isRunning) {
    const [from, to] = isRunning ? [this.generate, this.stop] : [this.stop, this.generate];
    const hadFocus = document.activeElement === from;
    this.generate.disabled = isRunning;
    this.stop.disabled = !isRunning;
    if (hadFocus) to.focus();
    if (isRunning && this.isChat) this.text.value = "";
  }

  show() {
    const kind = this.isChat ? "chat" : "text";
    document.getElementById("prompt-label").textContent = LABELS[kind];
    this.newChat.hidden = !this.isChat;
    if (Object.values(EXAMPLES).includes(this.text.value)) this.text.value = EXAMPLES[kind];
  }

  isComplete() {
    const wrong = this.text.value === "" ? "Write something first." : problem(number("max-tokens"), "Max tokens") || problem(number("temperature"), "Temperature");
    this.error.textContent = wrong;
    this.error.hidden = !wrong;
    return !wrong;
  }
}

function number(id) {
  return document.getElementById(id);
}

function problem(input, name) {
  return input.validity.valid && input.value !== "" ? "" : `${name}: give a number from ${input.min} to ${input.max}.`;
}
