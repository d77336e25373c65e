# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A bare-metal guest for x86 (multiboot, 32-bit protected mode) that proves a migration.
#
# It counts up the first word of every page of a working set, page after page, for ever. So at
# any moment the counts fall at most once along the working set, and by one: page i holds
# sweeps + 1 if i < position, sweeps otherwise. A second word holds the page's number, the last
# one the count again: a page that is lost, stale, torn or elsewhere is noticed by the guest itself
# and by whoever reads the RAM file of a stopped guest.
#
# Interrupts prove the devices: IRQ0 (PIT, 100 Hz) counts ticks, IRQ4 (16550) takes bytes. Once in
# 100 ticks the guest checks all pages and says so on the serial line; it answers each byte
# that it gets there.
#
# Command line (-append): pages=N (working set, default 16384), pace=N (pages written per tick;
# default 0: as fast as it can).

        .set    INFO, 0x200000          # what the host may look at; the layout is below
        .set    I_MAGIC, 0              # "precopy1"
        .set    I_FIRST, 8              # first page of the working set
        .set    I_PAGES, 12             # its length
        .set    I_SWEEPS, 16            # whole sweeps
        .set    I_POSITION, 20          # the next page to write
        .set    I_BEATS, 24             # pages written, 64 bits: stands still when the guest does
        .set    I_TICKS, 32             # timer interrupts
        .set    I_FAULTS, 36            # pages that were not what they must be, over all checks
        .set    I_ANSWERS, 40           # bytes answered
        .set    I_CHECKS, 44            # checks made

        .set    SET, 0x1000000          # the working set's address: 16 MiB
        .set    COM, 0x3f8
        .set    HZ, 100

        .section .multiboot, "a"
        .align  4
        .long   0x1badb002, 0x3, -(0x1badb002 + 0x3)

        .text
        .code32
        .globl  _start
_start:
        cli
        cld
        movl    $stack_top, %esp
        movl    %ebx, %esi              # the multiboot information
        lgdt    gdt_pointer
        ljmp    $0x08, $1f
1:      movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    %ax, %fs
        movw    %ax, %gs
        call    read_options
        call    set_up_interrupts
        call    set_up_devices

        movl    $INFO, %edi
        movl    $SET >> 12, I_FIRST(%edi)
        movl    pages, %eax
        movl    %eax, I_PAGES(%edi)
        movl    $0x63657270, I_MAGIC(%edi)      # "prec"
        movl    $0x3179706f, I_MAGIC + 4(%edi)  # "opy1"
        sti

        xorl    %ebx, %ebx              # the position
        movl    $SET, %edi              # its address
next:   incl    (%edi)
        movl    %ebx, 4(%edi)
        movl    (%edi), %eax
        movl    %eax, 4092(%edi)
        addl    $4096, %edi
        incl    %ebx
        cmpl    pages, %ebx
        jb      2f
        incl    INFO + I_SWEEPS
        xorl    %ebx, %ebx
        movl    $SET, %edi
2:      movl    %ebx, INFO + I_POSITION
        addl    $1, INFO + I_BEATS
        adcl    $0, INFO + I_BEATS + 4
        cmpl    $0, due
        je      3f
        movl    $0, due
        call    check
        call    say
3:      cmpl    $0, heard
        je      4f
        call    answer
4:      cmpl    $0, pace
        je      next
        decl    left
        jnz     next
        hlt                             # until the next tick, or byte
        movl    pace, %eax
        movl    %eax, left
        jmp     next

# Counts the pages that are not what they must be.
check:  pushl   %ebx
        pushl   %edi
        xorl    %ebx, %ebx
        movl    $SET, %edi
1:      movl    INFO + I_SWEEPS, %eax
        cmpl    INFO + I_POSITION, %ebx
        jae     2f
        incl    %eax
2:      cmpl    %eax, (%edi)
        jne     4f
        cmpl    %eax, 4092(%edi)
        jne     4f
        testl   %eax, %eax
        jz      3f                      # never written: has no number yet
        cmpl    %ebx, 4(%edi)
        jne     4f
3:      addl    $4096, %edi
        incl    %ebx
        cmpl    pages, %ebx
        jb      1b
        incl    INFO + I_CHECKS
        popl    %edi
        popl    %ebx
        ret
4:      incl    INFO + I_FAULTS
        jmp     3b

# One line: ticks, sweeps, faults, and whether the time stamp counter went on.
say:    movl    $text_ticks, %esi
        call    put_text
        movl    INFO + I_TICKS, %eax
        call    put_number
        movl    $text_sweeps, %esi
        call    put_text
        movl    INFO + I_SWEEPS, %eax
        call    put_number
        movl    $text_faults, %esi
        call    put_text
        movl    INFO + I_FAULTS, %eax
        call    put_number
        rdtsc
        movl    $text_good, %esi
        cmpl    stamp + 4, %edx
        ja      1f
        jb      2f
        cmpl    stamp, %eax
        jae     1f
2:      movl    $text_bad, %esi
1:      movl    %eax, stamp
        movl    %edx, stamp + 4
        jmp     put_text

# Answers a byte.
answer: movl    $0, heard
        incl    INFO + I_ANSWERS
        movl    $text_answer, %esi
        call    put_text
        movl    byte, %eax
        call    put_number
        movl    $text_end, %esi
        jmp     put_text

put_text:
        movb    (%esi), %al
        testb   %al, %al
        jz      1f
        call    put_byte
        incl    %esi
        jmp     put_text
1:      ret

put_number:
        pushl   %ebx
        movl    $10, %ebx
        xorl    %ecx, %ecx
1:      xorl    %edx, %edx
        divl    %ebx
        pushl   %edx
        incl    %ecx
        testl   %eax, %eax
        jnz     1b
2:      popl    %eax
        addb    $'0', %al
        call    put_byte
        loop    2b
        popl    %ebx
        ret

put_byte:
        movb    %al, %ah
        movw    $COM + 5, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        movw    $COM, %dx
        movb    %ah, %al
        outb    %al, %dx
        ret

# Looks for pages= and pace= in the command line at 16(%esi).
read_options:
        testl   $4, (%esi)
        jz      5f
        movl    16(%esi), %esi
1:      movb    (%esi), %al
        testb   %al, %al
        jz      5f
        cmpl    $0x65676170, (%esi)     # "page"
        jne     2f
        cmpw    $0x3d73, 4(%esi)        # "s="
        jne     2f
        addl    $6, %esi
        call    read_number
        movl    %eax, pages
        jmp     1b
2:      cmpl    $0x65636170, (%esi)     # "pace"
        jne     3f
        cmpb    $'=', 4(%esi)
        jne     3f
        addl    $5, %esi
        call    read_number
        movl    %eax, pace
        movl    %eax, left
        jmp     1b
3:      incl    %esi
        jmp     1b
5:      ret

read_number:
        xorl    %eax, %eax
        xorl    %ecx, %ecx
1:      movb    (%esi), %cl
        subb    $'0', %cl
        cmpb    $9, %cl
        ja      2f
        imull   $10, %eax
        addl    %ecx, %eax
        incl    %esi
        jmp     1b
2:      ret

set_up_interrupts:
        movl    $idt, %edi              # every vector stops the guest, but for two
        movl    $256, %ecx
        movl    $stuck, %eax
1:      call    set_gate
        addl    $8, %edi
        loop    1b
        movl    $idt + 8 * 0x20, %edi
        movl    $on_tick, %eax
        call    set_gate
        movl    $idt + 8 * 0x24, %edi
        movl    $on_byte, %eax
        call    set_gate
        lidt    idt_pointer
        ret

set_gate:
        movw    %ax, (%edi)
        movw    $0x08, 2(%edi)
        movw    $0x8e00, 4(%edi)
        movl    %eax, %edx
        shrl    $16, %edx
        movw    %dx, 6(%edi)
        ret

        .macro  out port, value
        movw    $\port, %dx
        movb    $\value, %al
        outb    %al, %dx
        .endm

set_up_devices:
        out     0x20, 0x11              # the interrupt controllers: vectors from 0x20 on,
        out     0xa0, 0x11
        out     0x21, 0x20
        out     0xa1, 0x28
        out     0x21, 0x04
        out     0xa1, 0x02
        out     0x21, 0x01
        out     0xa1, 0x01
        out     0x21, 0xee              # IRQ0 and IRQ4 only
        out     0xa1, 0xff
        out     0x43, 0x34              # the timer: rate generator
        out     0x40, (1193182 / HZ) & 0xff
        out     0x40, (1193182 / HZ) >> 8
        out     COM + 1, 0x00           # the serial line: 115200 8N1, interrupt on each byte
        out     COM + 3, 0x80
        out     COM + 0, 0x01
        out     COM + 1, 0x00
        out     COM + 3, 0x03
        out     COM + 2, 0x00
        out     COM + 4, 0x0b
        out     COM + 1, 0x01
        ret

# Returns from an interrupt without iret, which KVM does not emulate in protected mode, and some
# nested hosts make it emulate everything. Flags first: another interrupt may come in between.
        .macro  back
        pushl   8(%esp)
        popfl
        lret    $4
        .endm

on_tick:
        pushl   %eax
        incl    INFO + I_TICKS
        decl    until_due
        jnz     1f
        movl    $HZ, until_due
        movl    $1, due
1:      movb    $0x20, %al
        outb    %al, $0x20
        popl    %eax
        back

on_byte:
        pushl   %eax
        pushl   %edx
        movw    $COM, %dx
        xorl    %eax, %eax
        inb     %dx, %al
        movl    %eax, byte
        movl    $1, heard
        movb    $0x20, %al
        outb    %al, $0x20
        popl    %edx
        popl    %eax
        back

stuck:  cli
        movl    $text_stuck, %esi
        call    put_text
1:      hlt
        jmp     1b

        .data
        .align  8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
        .align  8
idt_pointer:
        .word   256 * 8 - 1
        .long   idt
        .align  4
pages:  .long   16384
pace:   .long   0
left:   .long   0
due:    .long   0
until_due:
        .long   HZ
heard:  .long   0
byte:   .long   0
stamp:  .quad   0
text_ticks:
        .asciz  "ticks="
text_sweeps:
        .asciz  " sweeps="
text_faults:
        .asciz  " faults="
text_good:
        .asciz  " tsc=on\r\n"
text_bad:
        .asciz  " tsc=BACK\r\n"
text_answer:
        .asciz  "answer="
text_end:
        .asciz  "\r\n"
text_stuck:
        .asciz  "STUCK\r\n"

        .bss
        .align  16
idt:    .skip   256 * 8
        .skip   8192
stack_top:
