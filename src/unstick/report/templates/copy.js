// Copies the code of the remedy; without a clipboard it is selected, to be copied by hand.
(function () {
  "use strict";
  const button = document.getElementById("copy");
  const code = document.getElementById("code");
  const said = document.getElementById("copied");

  function tell(word) {
    button.textContent = word;
    said.textContent = word;
    setTimeout(function () { button.textContent = "Copy"; said.textContent = ""; }, 2000);
  }

  function select() {
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    tell("Selected");
  }

  button.addEventListener("click", function () {
    if (!navigator.clipboard) { select(); return; }
    navigator.clipboard.writeText(code.textContent).then(function () { tell("Copied"); }, select);
  });
  button.hidden = false;
})();
