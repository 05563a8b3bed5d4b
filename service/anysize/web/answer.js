// One answer, or one conversation: asked for, streamed, and what came of it.

import { counted, milliseconds, percent } from "./numbers.js";
import { ServiceError, streamAnswer } from "./service.js";

const ENDS = { stop: "The model ended its answer.", length: "It reached the most tokens allowed.", cancelled: "Stopped." };

/** Characters of a prompt that are repeated before its answer. */
const SHOWN = 600;

export class Answer {
  /** @param {string} letter of the lane that chooses its size */
  constructor(letter) {
    this.letter = letter;
    this.root = document.getElementById("answer-template").content.cloneNode(true).firstElementChild;
    this.root.ariaLabel = `Answer ${letter}`;
    this.root.querySelector(".badge").textContent = letter;
    this.turns = this.root.querySelector(".turns");
    this.error = this.root.querySelector(".error");
    this.facts = this.root.querySelector("dl");
    this.clear();
  }

  /** Forget the conversation. */
  clear() {
    this.messages = [];
    this.turns.replaceChildren();
    this.say("state", "");
    this.reset();
  }

  /**
   * Ask, and show the answer as it comes.
   *
   * @param {{prompt?: string, message?: string}} asked text to go on from, or the next turn of the conversation
   * @param {object} options the other fields of the request
   * @param {AbortSignal} signal
   * @returns {Promise<string>} how it ended, in words
   */
  async run(asked, options, signal) {
    const isChat = asked.message !== undefined;
    if (!isChat) this.clear();
    this.reset();
    const turn = { role: "user", content: isChat ? asked.message : asked.prompt };
    const text = this.begin(turn.content, isChat);
    const conversation = [...this.messages, turn];
    const body = isChat ? { messages: conversation } : { prompt: asked.prompt };
    this.root.ariaBusy = "true";
    this.say("state", "waiting");
    try {
      const done = await this.read(streamAnswer({ ...body, ...options }, signal), text);
      if (isChat) this.messages = [...conversation, { role: "assistant", content: done.text }];
      this.say("state", "done");
      return `Answer ${this.letter}, by ${done.variant.id}: ${done.text}`;
    } catch (error) {
      return this.fail(error);
    } finally {
      text.classList.remove("open");
      this.root.ariaBusy = "false";
    }
  }

  async read(events, text) {
    let done;
    for await (const { name, data } of events) {
      if (name === "done") {
        done = data;
        text.textContent = data.text;
        text.classList.toggle("silent", data.text === "");
      } else {
        this.say("state", "answering");
        text.append(data.text);
      }
    }
    this.sum(done);
    return done;
  }

  begin(prompt, isChat) {
    const text = document.createElement(isChat ? "p" : "span");
    text.className = "text open";
    const asked = document.createElement(isChat ? "p" : "span");
    asked.className = "asked";
    asked.textContent = prompt.length > SHOWN ? `… ${prompt.slice(-SHOWN)}` : prompt;
    const turn = document.createElement("div");
    turn.className = isChat ? "turn chat" : "turn";
    turn.append(asked, text);
    this.turns.append(turn);
    return text;
  }

  sum({ variant, usage, timing, finish_reason: end, budget_kept: isExpected }) {
    this.facts.hidden = false;
    this.say("variant", `${variant.id}, ${percent(variant.fraction)}`);
    this.say("ttft", milliseconds(timing.ttft_ms));
    this.say("tpot", timing.tpot_ms === null ? "–" : milliseconds(timing.tpot_ms));
    this.say("tokens", `${usage.completion_tokens} after ${usage.prompt_tokens}`);
    const notes = [ENDS[end]];
    if (isExpected === false) notes.push("No size was expected to be that fast, so the smallest answered.");
    if (timing.predicted?.tpot_ms) {
      notes.push(`${milliseconds(timing.predicted.tpot_ms)} a token were predicted; the bound was ${timing.kept ? "kept" : "missed"}.`);
    }
    if (usage.cached_tokens) notes.push(`${counted(usage.cached_tokens, "prompt token")} were known from before.`);
    this.say("note", notes.join(" "));
  }

  fail(error) {
    if (error.name === "AbortError") {
      this.say("state", "stopped");
      return `Answer ${this.letter} stopped.`;
    }
    if (!(error instanceof ServiceError)) throw error;
    this.say("state", "failed");
    this.error.textContent = error.message;
    this.error.hidden = false;
    return "";
  }

  reset() {
    this.error.hidden = true;
    this.facts.hidden = true;
    this.say("note", "");
  }

  say(field, text) {
    this.root.querySelector(`[data-field="${field}"]`).textContent = text;
  }
}
