// Undo and redo by keys.
/** @import {Desk} from './types' */

const LATE = 1500; // ms after which an undo that nobody answered is given up

/** Listens to Ctrl+Z and Ctrl+Y, also where no fader has the focus. @param {Desk} desk */
export function listenForUndo(desk) {
  document.addEventListener('keydown', (event) => {
    const key = event.key.toLowerCase();
    if (!(event.ctrlKey || event.metaKey) || event.altKey || !['z', 'y'].includes(key)) return;
    if (!desk.root.offsetParent || desk.drag || isWritten(event.target)) return;
    event.preventDefault();
    desk.journey += key === 'y' || event.shiftKey ? 1 : -1;
    travel(desk);
  });
}

/** Whether something has an undo of its own. @param {EventTarget | null} node */
function isWritten(node) {
  if (!(node instanceof HTMLElement)) return false;
  return node.isContentEditable || node.matches('textarea, input:not([type=range], [type=checkbox], [type=radio])');
}

/** Presses Undo or Redo as often as the keys were pressed, one after the other has been answered.
 * @param {Desk} desk */
function travel(desk) {
  if (desk.answer || !desk.journey) return;
  const button = document.getElementById(desk.journey < 0 ? 'tune-undo' : 'tune-redo');
  if (!(button instanceof HTMLButtonElement) || button.disabled) {
    desk.journey = 0;
    return;
  }
  desk.journey -= Math.sign(desk.journey);
  desk.answer = setTimeout(() => travelled(desk), LATE);
  button.click();
}

/** Goes on after a step that was answered, or given up. @param {Desk} desk */
export function travelled(desk) {
  clearTimeout(desk.answer);
  desk.answer = 0;
  if (desk.journey) setTimeout(() => travel(desk));
}
