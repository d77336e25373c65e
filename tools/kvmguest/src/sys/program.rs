// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest runs: bare 64-bit code that [`crate::model`] repeats on the host.
//!
//! ```text
//! rbx  address of page 0's block of this vCPU          r8   address of the control page
//! rsi  steps done                                      r9   hot pages
//! rdi  state of the random stream                      r10  pages of the ring
//! rbp  position in the ring                            r11  cold pages
//! r12, r13  multiplier and increment of the stream     r14  multiplier of the check words
//! xmm0      steps done and state of the stream again   rax, rcx, rdx  scratch
//! xmm1      r8 and r14 again, never written
//! ```
//!
//! One step draws a number, picks a page by it, checks the vCPU's block in that page, counts in it
//! and seals it. Everything is in registers, so that whatever gets lost of them shows. A guest that
//! finds itself harmed says so through a port. No instruction is used that KVM cannot emulate:
//! without hardware support every single one is.

use std::arch::global_asm;

use crate::layout::{
    APIC_TPR_ADDRESS, CHECK_STEPS, CONTROL_SSE, CONTROL_STATE, CONTROL_STOP, CONTROL_TPR, Fault,
    HOT_BELOW, MSR_KERNEL_GS_BASE, PORT_FAULT, PORT_PROGRESS, PORT_STOP, RING_BELOW,
};
use crate::model::{BLOCK_CHECK, BLOCK_COUNT, BLOCK_LAST, BLOCK_SLOTS, SLOTS};

global_asm!(
    ".pushsection .rodata.precopy_kvmguest, \"a\", @progbits",
    ".globl precopy_kvmguest_code",
    ".globl precopy_kvmguest_code_end",
    "precopy_kvmguest_code:",
    // The step before, as the SSE register has it.
    "20: movdqu [r8 + {sse}], xmm0",
    "mov al, {fault_sse}",
    "cmp [r8 + {sse}], rsi",
    "jne 90f",
    "cmp [r8 + {sse} + 8], rdi",
    "jne 90f",
    // A number: its top 8 bits say which kind of page, 32 others which one.
    "imul rdi, r12",
    "add rdi, r13",
    "mov rax, rdi",
    "shr rax, 56",
    "mov rcx, rdi",
    "shr rcx, 24",
    "mov ecx, ecx",
    "cmp eax, {hot_below}",
    "jb 30f",
    "cmp eax, {ring_below}",
    "jb 40f",
    // A cold page, all alike.
    "imul rcx, r11",
    "shr rcx, 32",
    "add rcx, r9",
    "add rcx, r10",
    "jmp 50f",
    // A hot page: a product of two numbers, which favours the first pages.
    "30: mov rdx, rcx",
    "shr rdx, 16",
    "and ecx, 0xffff",
    "imul rcx, rdx",
    "imul rcx, r9",
    "shr rcx, 32",
    "jmp 50f",
    // The next page of the ring.
    "40: mov rcx, rbp",
    "inc rbp",
    "cmp rbp, r10",
    "jb 41f",
    "xor ebp, ebp",
    "41: add rcx, r9",
    // The block of this vCPU in it: as the last step there left it?
    "50: shl rcx, 12",
    "add rcx, rbx",
    "mov rax, [rcx + {count}]",
    "mov rdx, [rcx + {last}]",
    "cmp rdx, rsi",
    "ja 91f",
    "add rdx, rax",
    "imul rdx, r14",
    "cmp rdx, [rcx + {check}]",
    "jne 92f",
    // Count, write, seal.
    "inc rsi",
    "inc rax",
    "mov [rcx + {count}], rax",
    "mov [rcx + {last}], rsi",
    "add rax, rsi",
    "imul rax, r14",
    "mov [rcx + {check}], rax",
    "mov rax, rsi",
    "and eax, {slots} - 1",
    "mov [rcx + rax * 8 + {slot}], rdi",
    "mov [r8 + {state}], rsi",
    "mov [r8 + {state} + 8], rdi",
    "movdqu xmm0, [r8 + {state}]",
    "test esi, {check_steps} - 1",
    "jz 60f",
    "21: cmp qword ptr [r8 + {stop}], 0",
    "je 20b",
    // Between two steps, as asked. KVM hands over before the next instruction.
    "out {port_stop}, al",
    "jmp 20b",
    // Now and then: what the vCPU holds besides registers, and a sign of life.
    "60: movdqu [r8 + {sse}], xmm1",
    "mov al, {fault_sse}",
    "cmp [r8 + {sse}], r8",
    "jne 90f",
    "cmp [r8 + {sse} + 8], r14",
    "jne 90f",
    "mov rdx, dr0",
    "mov al, {fault_debug}",
    "cmp rdx, r8",
    "jne 90f",
    "mov ecx, {msr}",
    "rdmsr",
    "shl rdx, 32",
    "or rdx, rax",
    "mov al, {fault_msr}",
    "cmp rdx, r8",
    "jne 90f",
    "mov edx, {tpr_address}",
    "mov ecx, [rdx]",
    "mov al, {fault_apic}",
    "cmp ecx, [r8 + {tpr}]",
    "jne 90f",
    "mov eax, esi",
    "out {port_progress}, eax",
    "jmp 21b",
    "91: mov al, {fault_future}",
    "jmp 90f",
    "92: mov al, {fault_check}",
    "90: out {port_fault}, al",
    "jmp 90b",
    "precopy_kvmguest_code_end:",
    ".popsection",
    sse = const CONTROL_SSE,
    state = const CONTROL_STATE,
    stop = const CONTROL_STOP,
    tpr = const CONTROL_TPR,
    count = const BLOCK_COUNT * 8,
    last = const BLOCK_LAST * 8,
    check = const BLOCK_CHECK * 8,
    slot = const BLOCK_SLOTS * 8,
    slots = const SLOTS,
    hot_below = const HOT_BELOW,
    ring_below = const RING_BELOW,
    check_steps = const CHECK_STEPS,
    tpr_address = const APIC_TPR_ADDRESS,
    msr = const MSR_KERNEL_GS_BASE,
    port_stop = const PORT_STOP,
    port_fault = const PORT_FAULT,
    port_progress = const PORT_PROGRESS,
    fault_sse = const Fault::Sse as u8,
    fault_future = const Fault::Future as u8,
    fault_check = const Fault::Check as u8,
    fault_debug = const Fault::Debug as u8,
    fault_msr = const Fault::Msr as u8,
    fault_apic = const Fault::Apic as u8,
);

unsafe extern "C" {
    static precopy_kvmguest_code: u8;
    static precopy_kvmguest_code_end: u8;
}

/// The guest's code; it runs wherever it lies.
pub(crate) fn code() -> &'static [u8] {
    let (start, end) = (&raw const precopy_kvmguest_code, &raw const precopy_kvmguest_code_end);
    let length = end.addr() - start.addr();
    // SAFETY: both labels lie in the block of assembly above, the end after the start; what is
    // between them is in a read-only section and never changes.
    unsafe { std::slice::from_raw_parts(start, length) }
}
