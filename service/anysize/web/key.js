// The question for an API key, where the service answers only those who have one.

import { ServiceError, useKey } from "./service.js";

const REFUSED = 401;

export class KeyForm {
  /**
   * @param {() => Promise<void>} begin throws a ServiceError if the key is not the right one
   * @param {(error: Error) => void} giveUp told of everything else that goes wrong
   */
  constructor(begin, giveUp) {
    this.form = document.getElementById("key");
    this.text = document.getElementById("key-text");
    this.error = document.getElementById("key-error");
    this.begin = begin;
    this.giveUp = giveUp;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.tryKey();
    });
  }

  /** Show the question. */
  ask() {
    document.getElementById("metrics-link").hidden = true; // a link sends no key
    this.form.hidden = false;
    this.text.focus();
  }

  async tryKey() {
    useKey(this.text.value.trim());
    try {
      await this.begin();
      this.form.hidden = true;
      document.getElementById("prompt-text").focus();
    } catch (error) {
      if (!(error instanceof ServiceError) || error.status !== REFUSED) return this.giveUp(error);
      this.error.textContent = "The service does not know this key.";
      this.error.hidden = false;
      this.text.select();
    }
  }
}
